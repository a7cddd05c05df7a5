//! The copy of the rights as the status pages show it.

use std::fmt;

use rdb_proto::auth::Guard;
use rdb_proto::transport::status::{Exposition, Labels};
use serde_json::{Value, json};

/// What `/status` has of it.
pub(super) fn describe(guard: &Guard) -> Value {
    let counts = refused(guard).map(|(reason, count)| (reason.to_owned(), json!(count)));
    json!({
        "enforced": guard.is_enforced(),
        "version": guard.version(),
        "age_s": guard.age().map(|age| age.as_secs()),
        "refused": serde_json::Map::from_iter(counts),
    })
}

pub(super) fn write_to(guard: &Guard, exposition: &mut Exposition<'_>) -> fmt::Result {
    exposition.gauge(
        "flaredb_auth_enforced",
        "Whether rights are enforced, as far as the store was told.",
        f64::from(u8::from(guard.is_enforced())),
    )?;
    let no_labels: Labels<'_> = &[];
    let version = guard.version().map(|version| (no_labels, version as f64));
    exposition.gauges(
        "flaredb_auth_rights_version",
        "The version of the rights that the store has a copy of. It counts their changes.",
        version,
    )?;
    let age = guard.age().map(|age| (no_labels, age.as_secs_f64()));
    exposition.gauges(
        "flaredb_auth_rights_age_seconds",
        "How long ago a placement driver has confirmed the copy.",
        age,
    )?;
    let counts = refused(guard).map(|(reason, count)| ([("reason", reason)], count));
    exposition.counters(
        "flaredb_auth_refusals_total",
        "Calls, and commands of streams, that were refused for who their caller is, or since there is no copy of the rights.",
        counts.iter().map(|(labels, count)| (&labels[..], *count)),
    )
}

/// How often calls were refused, by the reason.
fn refused(guard: &Guard) -> [(&'static str, u64); 3] {
    let refusals = guard.refusals();
    [
        ("unauthenticated", refusals.unauthenticated()),
        ("denied", refusals.denied()),
        ("unavailable", refusals.unavailable()),
    ]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rdb_proto::auth::Rights;
    use rdb_proto::authpb;
    use rdb_proto::transport::status::metrics_text;

    use super::*;

    fn written(guard: Guard) -> String {
        let text = metrics_text(move |exposition| write_to(&guard, exposition));
        text.expect("a string takes all")
    }

    #[test]
    fn a_copy_of_the_rights_has_a_version_and_an_age_which_are_absent_without_one() {
        const VERSION: u64 = 1_000_000_000;
        const AGE: &str = "flaredb_auth_rights_age_seconds ";
        let none = written(Guard::off());
        assert!(none.contains("\nflaredb_auth_enforced 0\n"), "{none}");
        let is_of_copy = |line: &str| line.starts_with("flaredb_auth_rights");
        assert!(!none.lines().any(is_of_copy), "{none}");
        let rights = Rights::of(&authpb::Rights {
            version: VERSION,
            users: Vec::new(),
        });
        let guard = Guard::without_limit(Arc::new(rights.expect("valid")));
        let some = written(guard);
        let version = format!("flaredb_auth_rights_version {VERSION}");
        for line in ["flaredb_auth_enforced 1", &version] {
            assert!(some.lines().any(|found| found == line), "{line}\n{some}");
        }
        let age = some.lines().find_map(|line| line.strip_prefix(AGE));
        let age: f64 = age.expect("it has one").parse().expect("a number");
        assert!(age < VERSION as f64, "{some}");
    }
}
