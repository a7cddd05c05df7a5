//! [`labelled!`](crate::labelled): enums whose variants are labels.

/// Defines an enum for the crate whose variants are the values of one label of a metric. `ALL` has them in their order, and `name` is what
/// the label says.
#[macro_export]
macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$of_variant:meta])* $variant:ident = $label:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name {
            $($(#[$of_variant])* $variant,)*
        }

        #[allow(dead_code, reason = "the client without its metrics needs only the enum")]
        impl $name {
            const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its label.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }
        }
    };
}
