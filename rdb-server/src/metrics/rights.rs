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
