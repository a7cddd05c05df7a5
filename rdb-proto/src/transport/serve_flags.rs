//! The flags that both servers have.

/// Declares `ServeFlags`, which a server flattens into its settings. Their environment variables begin with `$env`.
/// `$bytes_in_flight_mib` is the default of `--bytes-in-flight-mib`.
#[macro_export]
macro_rules! serve_flags {
    ($env:literal, $bytes_in_flight_mib:expr) => {
        /// The flags that both servers have.
        #[derive(Debug, Clone, clap::Args)]
        pub struct ServeFlags {
            /// Most MiB of requests from their first byte on, and of answers until they are sent. What does not fit waits for a
            /// second, then its client is told to back off. Every connection gets 256 KiB in any case. At least 16. A store takes
            /// a quarter as many more for what other stores send, at least 16.
            #[arg(long, env = concat!($env, "_BYTES_IN_FLIGHT_MIB"), value_name = "MIB")]
            #[arg(default_value_t = $bytes_in_flight_mib)]
            pub bytes_in_flight_mib: usize,

            /// Most connections at a time. For one more, the one that has been idle longest is closed; if all are in use, the
            /// new one is. A store has 64 more places, where it serves other stores only.
            #[arg(long, env = concat!($env, "_CONNECTIONS_MAX"), value_name = "COUNT")]
            #[arg(default_value_t = $crate::transport::limits::CONNECTIONS_MAX)]
            pub connections_max: usize,

            /// Most connections from one IP address [default: no limit]
            #[arg(long, env = concat!($env, "_CONNECTIONS_PER_ADDRESS_MAX"), value_name = "COUNT")]
            pub connections_per_address_max: Option<usize>,

            /// Close a connection when no call on it has sent or received anything for this many seconds; 0: never. Clients
            /// connect again when they need to.
            #[arg(long, env = concat!($env, "_IDLE_TIMEOUT_S"), value_name = "SECONDS")]
            #[arg(default_value_t = $crate::transport::limits::IDLE_TIMEOUT.as_secs())]
            pub idle_timeout_s: u64,

            /// Serve over TLS with the certificate in this file, as PEM, and those between it and its CA behind it. With --tls-key. Files
            /// of certificates and keys are read again when they change, and on SIGHUP.
            #[arg(long, env = concat!($env, "_TLS_CERT"), value_name = "FILE")]
            pub tls_cert: Option<std::path::PathBuf>,

            /// The key of --tls-cert, as PEM, not encrypted.
            #[arg(long, env = concat!($env, "_TLS_KEY"), value_name = "FILE")]
            pub tls_key: Option<std::path::PathBuf>,

            /// Serve only clients that present a certificate which a CA in this file has signed, as PEM [default: any client]
            #[arg(long, env = concat!($env, "_TLS_CLIENT_CA"), value_name = "FILE")]
            pub tls_client_ca: Option<std::path::PathBuf>,

            /// Where metrics, the state of the process and a page for people are served over HTTP (/metrics, /health, /ready, /status,
            /// /), as IP:PORT, or `none` [default: 127.0.0.1, and the port of --addr plus 1000]
            #[arg(long, env = concat!($env, "_STATUS_ADDR"), value_name = "IP:PORT|none")]
            pub status_addr: Option<$crate::transport::status::StatusAddress>,

            /// Write a line to the log for what takes this many milliseconds or longer, at most one a second; 0: for nothing. It says
            /// where the time went, and names no key.
            #[arg(long, env = concat!($env, "_SLOW_LOG_MS"), value_name = "MS")]
            #[arg(default_value_t = $crate::slow_log::DEFAULT_THRESHOLD_MS)]
            pub slow_log_ms: u64,

            /// Send a span for each command and call that is a part of a sampled trace (W3C `traceparent`) to this collector of
            /// OpenTelemetry, by OTLP over gRPC. Needs a build with the cargo feature `otlp`.
            #[arg(long, env = concat!($env, "_OTLP_ENDPOINT"), value_name = "http://HOST:PORT")]
            pub otlp_endpoint: Option<$crate::spans::OtlpEndpoint>,

            /// Write each administrative call and each refusal to this file, as lines of JSON, and who it was. Made where it is missing, for
            /// this process alone. FILE.key beside it has the secret that hashes of keys are made with.
            #[arg(long, env = concat!($env, "_AUDIT_LOG"), value_name = "FILE")]
            pub audit_log: Option<std::path::PathBuf>,

            /// From how many MiB on --audit-log is renamed to FILE.1, that to FILE.2, and so on to FILE.5, which is the last.
            #[arg(long, env = concat!($env, "_AUDIT_LOG_MAX_MIB"), value_name = "MIB")]
            #[arg(default_value_t = $crate::audit::DEFAULT_FILE_MIB_MAX)]
            pub audit_log_max_mib: u64,

            /// What to log to stderr: error, warn, info, debug, trace, or filters such as `info,rocksdb=debug`. Debug and trace
            /// are FlareDB's own; libraries log that much when a filter names them, e.g. `debug,h2=debug`.
            #[arg(long, env = concat!($env, "_LOG_LEVEL"), value_name = "LEVEL")]
            #[arg(default_value = "info")]
            pub log_level: $crate::transport::process::LogFilter,
        }

        impl Default for ServeFlags {
            fn default() -> Self {
                Self {
                    bytes_in_flight_mib: $bytes_in_flight_mib,
                    connections_max: $crate::transport::limits::CONNECTIONS_MAX,
                    connections_per_address_max: None,
                    idle_timeout_s: $crate::transport::limits::IDLE_TIMEOUT.as_secs(),
                    tls_cert: None,
                    tls_key: None,
                    tls_client_ca: None,
                    status_addr: None,
                    slow_log_ms: $crate::slow_log::DEFAULT_THRESHOLD_MS,
                    otlp_endpoint: None,
                    audit_log: None,
                    audit_log_max_mib: $crate::audit::DEFAULT_FILE_MIB_MAX,
                    log_level: $crate::transport::process::LogFilter::default(),
                }
            }
        }

        impl ServeFlags {
            /// What it serves TLS with. `None`: it serves plain text.
            ///
            /// # Errors
            ///
            /// When a flag is missing, or what a file has cannot be used.
            pub fn tls(
                &self,
            ) -> Result<Option<$crate::transport::tls::ServerTls>, $crate::transport::tls::TlsError>
            {
                $crate::transport::tls::server_tls(
                    self.tls_cert.as_deref(),
                    self.tls_key.as_deref(),
                    self.tls_client_ca.as_deref(),
                )
            }

            /// Checks the path of the audit log, before anything is made. The data is to be in `data_dir`.
            ///
            /// # Errors
            ///
            /// When there is to be an audit log, and cannot be one there.
            pub fn check_audit_log(
                &self,
                data_dir: &std::path::Path,
            ) -> Result<(), $crate::audit::AuditError> {
                let path = self.audit_log.as_deref();
                path.map_or(Ok(()), |path| {
                    $crate::audit::AuditLog::check_beside(data_dir, path)
                })
            }

            /// Opens the audit log, if there is to be one, and begins to send spans. The data is in `data_dir`.
            ///
            /// # Errors
            ///
            /// When the file of the audit log cannot be written to, or is there.
            pub fn telemetry(
                &self,
                data_dir: &std::path::Path,
                origin: $crate::spans::Origin,
                notes_writes: bool,
            ) -> Result<$crate::transport::process::Telemetry, $crate::audit::AuditError> {
                let options = $crate::audit::AuditOptions {
                    origin: origin.clone(),
                    file_bytes_max: self.audit_log_max_mib << 20,
                    notes_writes,
                };
                let path = self.audit_log.clone();
                let audit = path
                    .map(|path| $crate::audit::AuditLog::open_beside(data_dir, path, options))
                    .transpose()?;
                let collector = self.otlp_endpoint.as_ref();
                let telemetry = $crate::transport::process::Telemetry::start;
                Ok(telemetry(audit, collector, origin))
            }

            /// Runs the program of a server with these flags, and ends the process with its exit code.
            pub fn run<E: $crate::transport::process::ProcessError>(
                &self,
                name: &str,
                process: impl AsyncFnOnce($crate::transport::Termination) -> Result<(), E>,
            ) -> ! {
                let has_tls = self.tls_cert.is_some();
                $crate::transport::process::run(name, self.log_level.clone(), has_tls, process)
            }

            /// Checks the flags.
            ///
            /// # Errors
            ///
            /// When one has a number that cannot work.
            pub fn options(
                &self,
            ) -> Result<$crate::transport::ServeOptions, $crate::transport::OutOfRange> {
                $crate::transport::OutOfRange::check(
                    "--audit-log-max-mib",
                    self.audit_log_max_mib,
                    $crate::audit::FILE_MIB,
                )?;
                $crate::transport::ServeOptions::checked(
                    self.bytes_in_flight_mib,
                    self.connections_max,
                    self.connections_per_address_max,
                    self.idle_timeout_s,
                )
            }
        }
    };
}
