//! The runs of the subcommands of `rdbctl bench`: set up, run, report.

use std::future::Future;
use std::sync::Arc;

use fastrand::Rng;
use rdb_proto::pdpb::GetTsoRequest;

use super::arguments::{
    CasArguments, CasHotArguments, Choice, ClientOptions, DataArguments, EchoStreamArguments,
    EmptyCallArguments, LoadArguments, Pace, ScanArguments, StreamArguments, TsoArguments,
};
use super::keys::KeyChooser;
use super::progress::Progress;
use super::report::{Report, Settings};
use super::runner::Schedule;
use super::target::{EchoClient, Etcd, FlareDb, IdleConnections, Target};
use super::values::Values;
use super::workload::{
    CasCaller, CasHotCaller, EmptyCallCaller, PointCaller, ScanCaller, TsoCaller, create_hot_key,
};
use super::{load, runner, stream, target};
use crate::arguments::GlobalArguments;
use crate::failure::Failure;

/// The options that all workloads need.
pub(super) struct Session<'a> {
    pub(super) global: &'a GlobalArguments,
    pub(super) threads: usize,
}

impl Session<'_> {
    pub(super) fn on_threads<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        crate::on_threads(self.threads, work)
    }

    pub(super) fn points(
        &self,
        workload: &'static str,
        read_ratio: f64,
        run: DataArguments,
    ) -> Result<Report, Failure> {
        match run.target.endpoint()? {
            None => self.on_threads(async {
                let flaredb = FlareDb::connect(self.global, run.target.client).await?;
                let _idle = self.idle(&flaredb, run.target.client).await?;
                self.points_of(flaredb, workload, read_ratio, &run).await
            }),
            Some(endpoint) => self.on_threads(async {
                let etcd = Etcd::connect(endpoint, self.global).await?;
                self.points_of(etcd, workload, read_ratio, &run).await
            }),
        }
    }

    async fn points_of<T: Target>(
        &self,
        target: T,
        workload: &'static str,
        read_ratio: f64,
        run: &DataArguments,
    ) -> Result<Report, Failure> {
        let progress = Progress::new(workload);
        if read_ratio > 0.0 && !run.preparation.no_load {
            load::load_raw(&target, &run.data, &progress).await?;
        }
        let chooser = chooser(&run.choice, run.data.keys);
        let values = Values::new(run.data.value_size);
        let callers = seeds(&run.pace).map(|rng| PointCaller {
            target: target.clone(),
            chooser: Arc::clone(&chooser),
            values: values.clone(),
            read_ratio,
            rng,
        });
        let schedule = self.schedule(&run.pace, run.open_loop.rate);
        let measured = runner::run(callers.collect(), schedule, progress).await;
        let is_flaredb = run.target.endpoint.is_none();
        let settings = Settings {
            target: T::NAME,
            unary: is_flaredb.then_some(run.target.client.unary),
            idle_connections: is_flaredb.then_some(run.target.client.idle_connections),
            keys: Some(run.data.keys),
            value_bytes: Some(run.data.value_size),
            distribution: Some(run.choice.distribution.name()),
            read_ratio: Some(read_ratio),
            rate: run.open_loop.rate,
            ..self.settings(workload, &run.pace)
        };
        Ok(Report::new(settings, &measured))
    }

    pub(super) async fn scan(&self, run: &ScanArguments) -> Result<Report, Failure> {
        let flaredb = FlareDb::connect(self.global, run.client).await?;
        let _idle = self.idle(&flaredb, run.client).await?;
        let progress = Progress::new("scan");
        if !run.preparation.no_load {
            load::load_raw(&flaredb, &run.data, &progress).await?;
        }
        let chooser = chooser(&run.choice, run.data.keys);
        let callers = seeds(&run.pace).map(|rng| ScanCaller {
            client: flaredb.client().clone(),
            chooser: Arc::clone(&chooser),
            limit: run.scan_limit as usize,
            rng,
        });
        let schedule = self.schedule(&run.pace, run.open_loop.rate);
        let measured = runner::run(callers.collect(), schedule, progress).await;
        let settings = Settings {
            keys: Some(run.data.keys),
            value_bytes: Some(run.data.value_size),
            distribution: Some(run.choice.distribution.name()),
            scan_limit: Some(run.scan_limit),
            rate: run.open_loop.rate,
            ..self.client_settings("scan", &run.pace, run.client)
        };
        Ok(Report::new(settings, &measured))
    }

    pub(super) async fn cas(&self, run: &CasArguments) -> Result<Report, Failure> {
        if run.data.keys < u64::from(run.pace.concurrency) {
            return Err(Failure::usage(format!(
                "--keys is {}, fewer than the {} of --concurrency; each caller has keys of its own",
                run.data.keys, run.pace.concurrency
            )));
        }
        let flaredb = FlareDb::connect(self.global, run.client).await?;
        let _idle = self.idle(&flaredb, run.client).await?;
        let progress = Progress::new("cas");
        let owned = match run.preparation.no_load {
            true => (0..run.data.keys).map(|number| (number, None)).collect(),
            false => load::load_versioned(flaredb.client(), &run.data, &progress).await?,
        };
        let values = Values::new(run.data.value_size);
        let shares = owned.chunks(owned.len() / run.pace.concurrency as usize);
        let callers = seeds(&run.pace).zip(shares).map(|(rng, keys)| {
            CasCaller::new(flaredb.client().clone(), values.clone(), rng, keys.to_vec())
        });
        let schedule = self.schedule(&run.pace, run.open_loop.rate);
        let measured = runner::run(callers.collect(), schedule, progress).await;
        let settings = Settings {
            keys: Some(run.data.keys),
            value_bytes: Some(run.data.value_size),
            rate: run.open_loop.rate,
            ..self.client_settings("cas", &run.pace, run.client)
        };
        Ok(Report::new(settings, &measured))
    }

    pub(super) async fn cas_hot(&self, run: &CasHotArguments) -> Result<Report, Failure> {
        let flaredb = FlareDb::connect(self.global, run.client).await?;
        let _idle = self.idle(&flaredb, run.client).await?;
        let version = create_hot_key(flaredb.client()).await?;
        let values = Values::new(run.value_size);
        let callers = seeds(&run.pace).map(|rng| CasHotCaller {
            client: flaredb.client().clone(),
            values: values.clone(),
            rng,
            backoff_max: run.backoff_max,
            version,
        });
        let schedule = self.schedule(&run.pace, None);
        let measured = runner::run(callers.collect(), schedule, Progress::new("cas-hot")).await;
        let settings = Settings {
            keys: Some(1),
            value_bytes: Some(run.value_size),
            ..self.client_settings("cas-hot", &run.pace, run.client)
        };
        Ok(Report::new(settings, &measured).with_contention(&measured))
    }

    pub(super) async fn tso(&self, run: &TsoArguments) -> Result<Report, Failure> {
        let flaredb = FlareDb::connect(self.global, run.client).await?;
        let _idle = self.idle(&flaredb, run.client).await?;
        let callers = seeds(&run.pace).map(|_| TsoCaller::new(flaredb.client().clone()));
        let schedule = self.schedule(&run.pace, run.open_loop.rate);
        let measured = runner::run(callers.collect(), schedule, Progress::new("tso")).await;
        let settings = Settings {
            rate: run.open_loop.rate,
            ..self.client_settings("tso", &run.pace, run.client)
        };
        Ok(Report::new(settings, &measured))
    }

    pub(super) async fn tso_stream(&self, run: &StreamArguments) -> Result<Report, Failure> {
        let outstanding = run.pace.concurrency;
        let (giver, requests) = stream::credits(SINGLE_TIMESTAMP, outstanding);
        let answers = target::open_timestamp_stream(self.global, requests).await?;
        let schedule = self.schedule(&run.pace, None);
        let progress = Progress::new("tso-stream");
        let measured = stream::run(giver, answers, outstanding, schedule, progress).await;
        let settings = self.settings("tso-stream", &run.pace);
        Ok(Report::new(settings, &measured))
    }

    pub(super) fn load(&self, run: &LoadArguments) -> Result<Report, Failure> {
        match run.target.endpoint()? {
            None => self.on_threads(async {
                let flaredb = FlareDb::connect(self.global, run.target.client).await?;
                let _idle = self.idle(&flaredb, run.target.client).await?;
                self.load_of(flaredb, run).await
            }),
            Some(endpoint) => self.on_threads(async {
                let etcd = Etcd::connect(endpoint, self.global).await?;
                self.load_of(etcd, run).await
            }),
        }
    }

    async fn load_of<T: Target>(&self, target: T, run: &LoadArguments) -> Result<Report, Failure> {
        let progress = Progress::new("load");
        let measured = load::load_raw(&target, &run.data, &progress).await?;
        let settings = Settings {
            workload: "load",
            target: T::NAME,
            concurrency: T::LOAD_CONCURRENCY as u32,
            threads: self.threads,
            keys: Some(run.data.keys),
            value_bytes: Some(run.data.value_size),
            ..Settings::default()
        };
        Ok(Report::new(settings, &measured))
    }

    pub(super) async fn empty_call(&self, run: &EmptyCallArguments) -> Result<Report, Failure> {
        let client = EchoClient::connect(&run.endpoint, self.global).await?;
        let callers = seeds(&run.pace).map(|_| EmptyCallCaller {
            client: client.clone(),
        });
        let schedule = self.schedule(&run.pace, run.open_loop.rate);
        let measured = runner::run(callers.collect(), schedule, Progress::new("empty-call")).await;
        let settings = Settings {
            target: "echo",
            rate: run.open_loop.rate,
            ..self.settings("empty-call", &run.pace)
        };
        Ok(Report::new(settings, &measured))
    }

    pub(super) async fn echo_stream(&self, run: &EchoStreamArguments) -> Result<Report, Failure> {
        let outstanding = run.pace.concurrency;
        let client = EchoClient::connect(&run.endpoint, self.global).await?;
        let (giver, requests) = stream::credits(SINGLE_TIMESTAMP, outstanding);
        let answers = client.echo(requests).await?;
        let schedule = self.schedule(&run.pace, None);
        let progress = Progress::new("echo-stream");
        let measured = stream::run(giver, answers, outstanding, schedule, progress).await;
        let settings = Settings {
            target: "echo",
            ..self.settings("echo-stream", &run.pace)
        };
        Ok(Report::new(settings, &measured))
    }

    async fn idle(
        &self,
        flaredb: &FlareDb,
        options: ClientOptions,
    ) -> Result<IdleConnections, Failure> {
        IdleConnections::open(flaredb.client(), options.idle_connections, self.global).await
    }

    fn schedule(&self, pace: &Pace, rate: Option<f64>) -> Schedule {
        Schedule {
            warmup: pace.warmup,
            duration: pace.duration,
            rate,
            timeout: self.global.timeout,
            threads: self.threads,
        }
    }

    /// The settings of a workload that only FlareDB can serve.
    fn client_settings(
        &self,
        workload: &'static str,
        pace: &Pace,
        client: ClientOptions,
    ) -> Settings {
        Settings {
            unary: Some(client.unary),
            idle_connections: Some(client.idle_connections),
            ..self.settings(workload, pace)
        }
    }

    fn settings(&self, workload: &'static str, pace: &Pace) -> Settings {
        Settings {
            workload,
            target: FlareDb::NAME,
            concurrency: pace.concurrency,
            threads: self.threads,
            warmup_s: pace.warmup.as_secs_f64(),
            ..Settings::default()
        }
    }
}

/// One message, one timestamp.
const SINGLE_TIMESTAMP: GetTsoRequest = GetTsoRequest { count: Some(1) };

/// A source of randomness for each caller, the same in every run.
fn seeds(pace: &Pace) -> impl Iterator<Item = Rng> + use<> {
    (0..u64::from(pace.concurrency)).map(Rng::with_seed)
}

fn chooser(choice: &Choice, keys: u64) -> Arc<KeyChooser> {
    Arc::new(KeyChooser::new(choice.distribution, keys))
}
