//! [`Key`]: the types that calls accept as keys.

use std::borrow::Cow;

use bytes::Bytes;

/// A type that calls accept as a key: text or bytes, borrowed or owned.
///
/// A key that owns its bytes ([`Bytes`], `String`, `Vec<u8>`) is passed on without a copy, and so is a `&Bytes`. Any other
/// reference is copied once. A type of the application's own may be a key, too:
///
/// ```
/// use rdb_client::{Bytes, Key};
///
/// struct UserId(u64);
///
/// impl Key for UserId {
///     fn to_key(&self) -> Bytes {
///         format!("user/{:020}", self.0).into()
///     }
/// }
/// assert_eq!(UserId(7).into_key(), "user/00000000000000000007");
/// ```
pub trait Key {
    /// The key's bytes: copied, or shared where they can be.
    fn to_key(&self) -> Bytes;

    /// The key's bytes. Takes the key, so that owned bytes are not copied.
    fn into_key(self) -> Bytes
    where
        Self: Sized,
    {
        self.to_key()
    }
}

impl<K: Key + ?Sized> Key for &K {
    fn to_key(&self) -> Bytes {
        (**self).to_key()
    }
}

impl<K: Key + ToOwned<Owned: Key> + ?Sized> Key for Cow<'_, K> {
    fn to_key(&self) -> Bytes {
        (**self).to_key()
    }

    fn into_key(self) -> Bytes {
        match self {
            Self::Borrowed(key) => key.to_key(),
            Self::Owned(key) => key.into_key(),
        }
    }
}

impl Key for Bytes {
    fn to_key(&self) -> Bytes {
        self.clone()
    }

    fn into_key(self) -> Bytes {
        self
    }
}

macro_rules! copied_when_borrowed {
    ($($owned:ty => $borrowed:ty),+ $(,)?) => {$(
        impl Key for $borrowed {
            fn to_key(&self) -> Bytes {
                Bytes::copy_from_slice(self.as_ref())
            }
        }

        impl Key for $owned {
            fn to_key(&self) -> Bytes {
                Bytes::copy_from_slice(self.as_ref())
            }

            fn into_key(self) -> Bytes {
                self.into()
            }
        }
    )+};
}

copied_when_borrowed!(String => str, Vec<u8> => [u8]);

impl<const N: usize> Key for [u8; N] {
    fn to_key(&self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(key: impl Key) -> Bytes {
        key.into_key()
    }

    #[test]
    fn every_form_of_a_key_has_the_same_bytes() {
        let (text, vector) = (String::from("k1"), b"k1".to_vec());
        let bytes = Bytes::from_static(b"k1");
        let forms = [
            bytes_of("k1"),
            bytes_of(&*text),
            bytes_of(&text),
            bytes_of(b"k1"),
            bytes_of(*b"k1"),
            bytes_of(&b"k1"[..]),
            bytes_of(&vector),
            bytes_of(vector.clone()),
            bytes_of(Cow::Borrowed("k1")),
            bytes_of(Cow::<str>::Owned(text.clone())),
            bytes_of(&bytes),
            bytes_of(text),
        ];
        assert!(forms.iter().all(|form| *form == bytes), "{forms:?}");
    }

    #[test]
    fn bytes_that_are_owned_or_shared_are_not_copied() {
        let bytes = Bytes::from(vec![b'k'; 100]);
        assert_eq!(bytes_of(&bytes).as_ptr(), bytes.as_ptr());
        assert_eq!(bytes_of(bytes.clone()).as_ptr(), bytes.as_ptr());
        let vector = vec![b'k'; 100];
        let address = vector.as_ptr();
        assert_eq!(bytes_of(vector).as_ptr(), address);
    }
}
