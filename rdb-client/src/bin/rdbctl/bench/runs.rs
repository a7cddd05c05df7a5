//! The runs of the subcommands of `rdbctl bench`: set up, run, report.

use std::sync::Arc;

use fastrand::Rng;
use rdb_proto::pdpb::{GetTsoRequest, GetTsoResponse};
use tonic::Streaming;

use super::arguments::{
    CasArguments, CasHotArguments, Choice, Data, EchoStreamArguments, EmptyCallArguments,
    LoadArguments, Pace, PresetArguments, ScanArguments, TsoArguments,
};
use super::keys::KeyChooser;
use super::load::{load_raw, load_versioned};
use super::report::{Report, Settings};
use super::runner::{self, Schedule};
use super::stream::{self, Credits};
use super::target::{EchoClient, FlareDb, Target, open_timestamp_stream};
use super::values::Values;
use super::workload::{
    Caller, CasCaller, CasHotCaller, PointCaller, ScanCaller, TsoCaller, create_hot_key,
};
use crate::arguments::GlobalArguments;
use crate::failure::Failure;

/// Runs the workloads, with the options that all of them share.
pub(super) struct Runner<'a> {
    pub(super) global: &'a GlobalArguments,
    pub(super) threads: usize,
}

impl Runner<'_> {
    pub(super) async fn points(
        &self,
        workload: &'static str,
        read_ratio: f64,
        choice: Choice,
        run: &PresetArguments,
    ) -> Result<Report, Failure> {
        let target = Target::connect(&run.target, self.global).await?;
        if read_ratio > 0.0 && !run.preparation.no_load {
            load_raw(workload, &target, run.data).await?;
        }
        let settings = Settings {
            target: target.name(),
            client: target.is_flaredb().then_some(run.target.client),
            data: Some(run.data),
            choice: Some(choice),
            read_ratio: Some(read_ratio),
            rate: run.open.rate,
            ..self.settings(workload, &run.open.pace)
        };
        let (chooser, values) = (chooser(choice, run.data), Values::new(run.data.value));
        let caller = |rng| PointCaller {
            target: target.clone(),
            chooser: Arc::clone(&chooser),
            values: values.clone(),
            read_ratio,
            rng,
        };
        Ok(self.measure(settings, &run.open.pace, caller).await)
    }

    pub(super) async fn scan(&self, run: &ScanArguments) -> Result<Report, Failure> {
        let flaredb = FlareDb::connect(self.global, run.client).await?;
        if !run.preparation.no_load {
            load_raw("scan", &Target::FlareDb(flaredb.clone()), run.data).await?;
        }
        let settings = Settings {
            client: Some(run.client),
            data: Some(run.data),
            choice: Some(run.choice),
            scan_limit: Some(run.scan_limit),
            rate: run.open.rate,
            ..self.settings("scan", &run.open.pace)
        };
        let chooser = chooser(run.choice, run.data);
        let caller = |rng| ScanCaller {
            client: flaredb.client().clone(),
            chooser: Arc::clone(&chooser),
            limit: run.scan_limit as usize,
            rng,
        };
        Ok(self.measure(settings, &run.open.pace, caller).await)
    }

    pub(super) async fn cas(&self, run: &CasArguments) -> Result<Report, Failure> {
        let (keys, concurrency) = (run.data.keys, run.open.pace.concurrency);
        if keys < u64::from(concurrency) {
            return Err(Failure::usage(format!(
                "--keys is {keys}, fewer than the {concurrency} of --concurrency; each caller has keys of its own",
            )));
        }
        let flaredb = FlareDb::connect(self.global, run.client).await?;
        let owned = if run.preparation.no_load {
            (0..keys).map(|number| (number, None)).collect()
        } else {
            load_versioned("cas", flaredb.client(), run.data).await?
        };
        let settings = Settings {
            client: Some(run.client),
            data: Some(run.data),
            rate: run.open.rate,
            ..self.settings("cas", &run.open.pace)
        };
        let values = Values::new(run.data.value);
        let mut shares = owned.chunks(owned.len() / concurrency as usize);
        let caller = |rng| {
            let keys = shares.next().unwrap_or_default().to_vec();
            CasCaller::new(flaredb.client().clone(), values.clone(), rng, keys)
        };
        Ok(self.measure(settings, &run.open.pace, caller).await)
    }

    pub(super) async fn cas_hot(&self, run: &CasHotArguments) -> Result<Report, Failure> {
        let flaredb = FlareDb::connect(self.global, run.client).await?;
        let version = create_hot_key(flaredb.client()).await?;
        let settings = Settings {
            client: Some(run.client),
            data: Some(Data {
                keys: 1,
                value: run.value,
            }),
            is_contended: true,
            ..self.settings("cas-hot", &run.pace)
        };
        let values = Values::new(run.value);
        let caller = |rng| CasHotCaller {
            client: flaredb.client().clone(),
            values: values.clone(),
            rng,
            backoff_max: run.backoff_max,
            version,
        };
        Ok(self.measure(settings, &run.pace, caller).await)
    }

    pub(super) async fn tso(&self, run: &TsoArguments) -> Result<Report, Failure> {
        let flaredb = FlareDb::connect(self.global, run.client).await?;
        let settings = Settings {
            client: Some(run.client),
            rate: run.open.rate,
            ..self.settings("tso", &run.open.pace)
        };
        let caller = |_| TsoCaller::new(flaredb.client().clone());
        Ok(self.measure(settings, &run.open.pace, caller).await)
    }

    pub(super) async fn tso_stream(&self, pace: &Pace) -> Result<Report, Failure> {
        let credits = Credits::new(pace.concurrency);
        let requests = credits.messages(SINGLE_TIMESTAMP);
        let answers = open_timestamp_stream(self.global, requests).await?;
        let settings = self.settings("tso-stream", pace);
        Ok(self.measure_stream(settings, pace, credits, answers).await)
    }

    pub(super) async fn load(&self, run: &LoadArguments) -> Result<Report, Failure> {
        let target = Target::connect(&run.target, self.global).await?;
        let measured = load_raw("load", &target, run.data).await?;
        let settings = Settings {
            workload: "load",
            target: target.name(),
            concurrency: target.load_concurrency() as u32,
            threads: self.threads,
            data: Some(run.data),
            ..Settings::default()
        };
        Ok(Report::new(settings, measured))
    }

    pub(super) async fn empty_call(&self, run: &EmptyCallArguments) -> Result<Report, Failure> {
        let client = EchoClient::connect(&run.endpoint, self.global).await?;
        let settings = Settings {
            target: EchoClient::NAME,
            rate: run.open.rate,
            ..self.settings("empty-call", &run.open.pace)
        };
        let caller = |_| client.clone();
        Ok(self.measure(settings, &run.open.pace, caller).await)
    }

    pub(super) async fn echo_stream(&self, run: &EchoStreamArguments) -> Result<Report, Failure> {
        let client = EchoClient::connect(&run.endpoint, self.global).await?;
        let credits = Credits::new(run.pace.concurrency);
        let answers = client.echo(credits.messages(SINGLE_TIMESTAMP)).await?;
        let settings = Settings {
            target: EchoClient::NAME,
            ..self.settings("echo-stream", &run.pace)
        };
        Ok(self
            .measure_stream(settings, &run.pace, credits, answers)
            .await)
    }

    /// Runs as many callers as `pace` says. Each gets a source of randomness, the same in every run.
    async fn measure<C: Caller>(
        &self,
        settings: Settings,
        pace: &Pace,
        caller: impl FnMut(Rng) -> C,
    ) -> Report {
        let seeds = (0..u64::from(pace.concurrency)).map(Rng::with_seed);
        let schedule = self.schedule(&settings, pace);
        let measured = runner::run(seeds.map(caller).collect(), schedule).await;
        Report::new(settings, measured)
    }

    async fn measure_stream(
        &self,
        settings: Settings,
        pace: &Pace,
        credits: Credits,
        answers: Streaming<GetTsoResponse>,
    ) -> Report {
        let schedule = self.schedule(&settings, pace);
        let measured = stream::run(credits, answers, pace.concurrency, schedule).await;
        Report::new(settings, measured)
    }

    fn schedule(&self, settings: &Settings, pace: &Pace) -> Schedule {
        Schedule {
            workload: settings.workload,
            warmup: pace.warmup,
            duration: pace.duration,
            rate: settings.rate,
            timeout: self.global.timeout,
            threads: self.threads,
        }
    }

    /// The settings of a workload, as far as most have them.
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

fn chooser(choice: Choice, data: Data) -> Arc<KeyChooser> {
    Arc::new(KeyChooser::new(choice.distribution, data.keys))
}
