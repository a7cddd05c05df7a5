//! The metrics of the gRPC transport, which both servers have.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::super::budget::ByteBudget;
use super::super::figures::TransportFigures;
use super::super::serve::ServeOptions;
use super::super::tls::ServerTls;
use super::super::uncharged::UnchargedCalls;
use super::{Exposition, Labels};
use crate::audit::AuditLog;

/// What a server's transport counts and limits.
#[derive(Debug, Clone)]
pub struct TransportMetrics {
    figures: Arc<TransportFigures>,
    connections_max: usize,
    store_connections_max: usize,
    clients: ByteBudget,
    stores: ByteBudget,
    uncharged: Arc<UnchargedCalls>,
    tls: Option<Arc<ServerTls>>,
    audit: Option<AuditLog>,
}

const CLIENTS: Labels<'_> = &[("of", "clients")];
const STORES: Labels<'_> = &[("of", "stores")];

impl TransportMetrics {
    /// The metrics of a transport that is served with these options.
    pub fn of(options: &ServeOptions) -> Self {
        Self {
            figures: Arc::clone(&options.figures),
            connections_max: options.connections_max,
            store_connections_max: options.store_connections_max,
            clients: options.bytes_in_flight.clone(),
            stores: options.stores_bytes_in_flight.clone(),
            uncharged: Arc::clone(&options.uncharged_calls),
            tls: options.tls.clone(),
            audit: options.audit.clone(),
        }
    }

    /// What `/status` says of the audit log. Null: there is none.
    pub fn describe_audit(&self) -> Value {
        self.audit.as_ref().map_or(Value::Null, AuditLog::describe)
    }

    /// Writes them.
    ///
    /// # Errors
    ///
    /// Only those of the exposition.
    pub fn write(&self, exposition: &mut Exposition<'_>) -> fmt::Result {
        self.write_connections(exposition)?;
        self.write_calls(exposition)?;
        AuditLog::write_to(self.audit.as_ref(), exposition)?;
        let has_stores = self.store_connections_max > 0;
        let both = |clients: f64, stores: f64| {
            let stores = has_stores.then_some((STORES, stores));
            [(CLIENTS, clients)].into_iter().chain(stores)
        };
        exposition.gauges(
            "flaredb_in_flight_bytes",
            "Bytes of requests from their first byte, and of answers until they are sent.",
            both(
                self.clients.bytes_noted() as f64,
                self.stores.bytes_noted() as f64,
            ),
        )?;
        exposition.gauges(
            "flaredb_in_flight_limit_bytes",
            "Bytes in flight from which on calls wait, and are then told to back off.",
            both(
                self.clients.bytes_max() as f64,
                self.stores.bytes_max() as f64,
            ),
        )?;
        let taken = self.uncharged.taken();
        let taken = taken.map(|(of, count)| ([("of", of)], count as f64));
        exposition.gauges(
            "flaredb_uncharged_calls",
            "Calls that count in no bytes in flight: those that wait for their first ones, and refused ones until their answers are sent.",
            taken.iter().map(|(labels, count)| (&labels[..], *count)),
        )?;
        exposition.gauge(
            "flaredb_uncharged_calls_limit",
            "Places for such calls, of each kind. Calls that find none do not wait for room.",
            self.uncharged.count_max() as f64,
        )
    }

    fn write_connections(&self, exposition: &mut Exposition<'_>) -> fmt::Result {
        let figures = &self.figures;
        exposition.gauge(
            "flaredb_connections",
            "Open gRPC connections.",
            figures.connections_open() as f64,
        )?;
        exposition.gauge(
            "flaredb_connections_limit",
            "Connections from which on a new one displaces an idle one, or is refused.",
            self.connections_max as f64,
        )?;
        exposition.counter(
            "flaredb_connections_accepted_total",
            "gRPC connections that got a place.",
            figures.connections_accepted.get(),
        )?;
        exposition.counter(
            "flaredb_connections_refused_total",
            "gRPC connections that were closed at once, since all places were taken.",
            figures.connections_refused.get(),
        )?;
        exposition.counter(
            "flaredb_tls_handshakes_failed_total",
            "gRPC connections that were closed since there was no TLS handshake, or a refused one.",
            figures.handshakes_failed.get(),
        )?;
        let tls = self.tls.as_ref();
        let not_after_s = tls.map(|tls| (&[][..], tls.certificate_not_after_s() as f64));
        exposition.gauges(
            "flaredb_tls_certificate_expiry_timestamp_seconds",
            "When the certificate in use expires, in seconds since 1970.",
            not_after_s,
        )
    }

    fn write_calls(&self, exposition: &mut Exposition<'_>) -> fmt::Result {
        let ended = self.figures.calls_ended();
        let labels: Vec<_> = ended
            .iter()
            .map(|ended| {
                [
                    ("service", ended.service),
                    ("method", ended.method),
                    ("code", ended.code),
                ]
            })
            .collect();
        let counts = ended.iter().map(|ended| ended.count);
        exposition.counters(
            "flaredb_calls_total",
            "gRPC calls that were answered, by their status. Routing answers and conflicts are answers.",
            labels.iter().map(|labels| &labels[..]).zip(counts),
        )?;
        let in_flight = self.figures.calls_in_flight();
        let labels: Vec<_> = in_flight
            .iter()
            .map(|(service, method, _)| [("service", *service), ("method", *method)])
            .collect();
        let counts = in_flight.iter().map(|(_, _, count)| *count as f64);
        exposition.gauges(
            "flaredb_calls_in_flight",
            "gRPC calls that are not answered yet, and streams that are open.",
            labels.iter().map(|labels| &labels[..]).zip(counts),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::super::exposition::text;
    use super::*;
    use crate::transport::figures::CountedConnection;
    use crate::transport::methods::Method;
    use crate::transport::tls::certificates::Ca;
    use crate::transport::tls::{Pem, ServerTlsOptions};

    #[test]
    fn each_figure_is_shown_under_its_own_name() {
        let issued = Ca::new().server();
        let tls = ServerTls::new(ServerTlsOptions {
            certificate: Pem::Text(issued.certificate.into_bytes()),
            key: Pem::Text(issued.key.into_bytes()),
            client_ca: None,
        });
        let tls = tls.expect("it can be used");
        let not_after_s = tls.certificate_not_after_s();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let days = not_after_s.saturating_sub(now.expect("after 1970").as_secs()) / (24 * 60 * 60);
        assert!((29..=30).contains(&days), "{not_after_s}");
        let options = ServeOptions {
            connections_max: 1,
            uncharged_calls: Arc::new(UnchargedCalls::new(6)),
            tls: Some(Arc::new(tls)),
            ..ServeOptions::default()
        };
        let figures = &options.figures;
        figures.connections_accepted.add(5);
        drop(CountedConnection(Arc::clone(figures)));
        figures.connections_refused.add(2);
        figures.handshakes_failed.add(3);
        let calls = &options.uncharged_calls;
        let of_store = || calls.waiting(Method::of("/raftpb.RaftPeer/Bulk"));
        let mut places = vec![calls.waiting(Method::of("/kvrpc.KvRaw/RawGet"))];
        places.extend([calls.denied(), calls.denied()]);
        places.extend([of_store(), of_store(), of_store()]);
        places.extend([calls.busy(), calls.busy(), calls.busy(), calls.busy()]);
        assert!(places.iter().all(Option::is_some));
        let metrics = TransportMetrics::of(&options);
        let written = text(move |exposition| metrics.write(exposition));
        let written = written.expect("a string takes all");
        let expiry = format!("flaredb_tls_certificate_expiry_timestamp_seconds {not_after_s}");
        for line in [
            "flaredb_connections 4",
            "flaredb_connections_limit 1",
            "flaredb_connections_accepted_total 5",
            "flaredb_connections_refused_total 2",
            "flaredb_tls_handshakes_failed_total 3",
            expiry.as_str(),
            "flaredb_uncharged_calls{of=\"users\"} 1",
            "flaredb_uncharged_calls{of=\"strangers\"} 2",
            "flaredb_uncharged_calls{of=\"stores\"} 3",
            "flaredb_uncharged_calls{of=\"busy\"} 4",
            "flaredb_uncharged_calls_limit 6",
        ] {
            assert!(
                written.lines().any(|found| found == line),
                "{line}\n{written}"
            );
        }
    }
}
