//! `rdbctl playground`: a cluster of the programs beside this one, on this machine, for trying things out.
//!
//! - `directory` is where its data is, and which addresses it had.
//! - `process` starts one program, and ensures that it ends: no process outlives this one, however this one ends.
//! - `event` is what is printed.
//! - `tokens` has the users, if rights are enforced.

mod directory;
mod event;
mod process;
mod tokens;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use rdb_client::{Client, Config};
use rdb_proto::transport::Termination;
use tokio::time::sleep;

use crate::arguments::whole;
use crate::cert::Certificates;
use crate::failure::Failure;
use crate::output::Output;
use directory::Directory;
use event::Event;
pub(crate) use process::become_process;
use process::{Process, Programs};
use tokens::Tokens;

/// Where certificates are, in the directory.
const TLS: &str = "tls";

/// How often processes and leaders are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How long the placement driver may take to say who leads.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long it is silent while the cluster does not serve yet.
const SILENCE: Duration = Duration::from_secs(3);

const AFTER_HELP: &str = "\
Starts rdb-pd and rdb-server from the directory of this rdbctl, on free ports of
127.0.0.1, and stops them on Ctrl-C or SIGTERM. None of them outlives it. Prints
their addresses, where their metrics are, what to try, and who leads a region
whenever that changes. A process that ends is reported, and the others go on.

Without --dir nothing is left behind, except after a failure, which says where
the logs are. A DIR is kept, with the logs of the last run, and can be used
again, by one playground at a time.

Examples:
  rdbctl playground
  rdbctl playground --stores 1 --dir ./data
  rdbctl playground --tls
  rdbctl playground --auth --tls";

#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct PlaygroundArguments {
    /// How many stores to start, 1 to 7, each with a replica of every region [default: 3, or as many as DIR has]
    #[arg(long, value_name = "N", value_parser = whole(1..=7usize))]
    stores: Option<usize>,
    /// Where the data is; made if it is missing [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Encrypt connections, and serve only clients with a certificate. Makes a CA and certificates in the directory `tls` of DIR
    #[arg(long)]
    tls: bool,
    /// Enforce rights: make an administrator and a user for the stores, with their tokens in DIR
    #[arg(long)]
    auth: bool,
}

pub(crate) async fn run(
    arguments: PlaygroundArguments,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let mut termination = Termination::install()
        .map_err(|error| Failure::failed(format!("cannot watch for signals: {error}")))?;
    let programs = Programs::beside_this()?;
    let mut playground = Playground {
        programs,
        directory: Directory::open(arguments.dir, arguments.stores)?,
        certificates: None,
        tokens: None,
        processes: Vec::new(),
        leaders: BTreeMap::new(),
    };
    if arguments.tls {
        let directory = playground.directory.path().join(TLS);
        playground.certificates = Some(Certificates::of_this_machine(&directory)?);
    }
    if arguments.auth {
        playground.tokens = Some(Tokens::in_directory(playground.directory.path()));
    }
    let ended = tokio::select! {
        failure = playground.run(output) => Err(playground.left_behind(failure)),
        () = termination.requested() => Ok(()),
    };
    // Asked a second time, it does not wait for them.
    tokio::select! {
        () = playground.stop() => {}
        () = termination.requested() => {}
    }
    // The processes are killed, if they still run, before the directory is removed.
    drop(playground);
    ended?;
    output.event(&Event::Stopped)
}

/// Fields are dropped in their order.
struct Playground {
    /// The placement driver is the first. Those that ended are not here.
    processes: Vec<Process>,
    programs: Programs,
    /// The store and the term, by the region's id.
    leaders: BTreeMap<u64, (u64, u64)>,
    /// `None`: connections are plain text.
    certificates: Option<Certificates>,
    /// `None`: rights are not enforced.
    tokens: Option<Tokens>,
    directory: Directory,
}

impl Playground {
    /// Runs until it cannot go on.
    async fn run(&mut self, output: &mut Output<'_>) -> Failure {
        let Err(failure) = self.try_run(output).await;
        failure
    }

    async fn try_run(
        &mut self,
        output: &mut Output<'_>,
    ) -> Result<std::convert::Infallible, Failure> {
        let store_count = self.directory.store_count();
        let programs = self.programs.clone();
        let certificates = self.certificates.clone();
        let tls_flags = certificates.as_ref().map(Certificates::server_flags);
        let with_tls = |flags: [String; 2]| {
            let tls_flags = tls_flags.clone().into_iter().flatten();
            flags.into_iter().chain(tls_flags).collect::<Vec<_>>()
        };
        let mut flags = with_tls(["--initial-replicas".to_owned(), store_count.to_string()]);
        if self.tokens.is_some() {
            flags.push("--auth".to_owned());
        }
        let pd_address = self.start("pd", &programs.pd, &flags, output).await?;
        let mut told_at = Some(Instant::now() + SILENCE);
        let config = Config::default().with_timeout(ANSWER_TIMEOUT);
        let mut config = match &certificates {
            Some(certificates) => config.with_tls(certificates.tls()),
            None => config,
        };
        let mut flags = with_tls(["--pd".to_owned(), pd_address.clone()]);
        if let Some(tokens) = self.tokens.clone() {
            let patient = config.clone().with_timeout(Config::default().timeout);
            tokens.make(&pd_address, &patient).await?;
            config = config.with_token_file(&tokens.admin);
            let path = tokens.stores.display().to_string();
            flags.extend(["--auth-token-file".to_owned(), path]);
        }
        for number in 1..=store_count {
            let name = directory::store_name(number);
            self.start(&name, &programs.server, &flags, output).await?;
        }
        let client = loop {
            match Client::connect_with([pd_address.clone()], config.clone()).await {
                Ok(client) => break client,
                Err(error) => self.wait_on(&error, &mut told_at, output)?,
            }
        };
        // Stores that start again serve before the placement driver hears who leads.
        while let Err(error) = client.raw_get("k").await {
            self.wait_on(&error, &mut told_at, output)?;
        }
        output.event(&Event::Ready {
            pd: pd_address,
            store_count,
            directory: self.directory.path().to_owned(),
            is_kept: self.directory.is_kept(),
            certificates,
            tokens: self.tokens.clone(),
        })?;
        loop {
            self.report_ends(output)?;
            self.look_for_leaders(&client, output).await?;
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Returns the address that the process listens on.
    async fn start(
        &mut self,
        name: &str,
        program: &Path,
        flags: &[String],
        output: &mut Output<'_>,
    ) -> Result<String, Failure> {
        let process = Process::start(name, program, flags, &self.directory).await?;
        let address = process.address.clone();
        self.directory.remember(name, &address)?;
        output.event(&Event::Started {
            name: name.to_owned(),
            address: address.clone(),
            status: process.status_address.clone(),
            pid: process.pid,
        })?;
        self.processes.push(process);
        Ok(address)
    }

    /// Before the cluster serves, no process may end. Says once why it does not, if that takes long.
    fn wait_on(
        &mut self,
        error: &rdb_client::Error,
        told_at: &mut Option<Instant>,
        output: &mut Output<'_>,
    ) -> Result<(), Failure> {
        if let Some(cause) = self.processes.iter_mut().find_map(Process::ended) {
            return Err(Failure::failed(cause));
        }
        tracing::debug!(%error, "the cluster does not serve yet");
        if told_at.take_if(|at| *at <= Instant::now()).is_some() {
            let cause = error.to_string();
            output.event(&Event::Waiting { cause })?;
        }
        Ok(())
    }

    fn report_ends(&mut self, output: &mut Output<'_>) -> Result<(), Failure> {
        let mut ends = Vec::new();
        self.processes.retain_mut(|process| {
            let end = process.ended().map(|cause| (process.name.clone(), cause));
            let runs = end.is_none();
            ends.extend(end);
            runs
        });
        for (name, cause) in ends {
            let others = self.processes.len();
            output.event(&Event::Ended {
                name,
                cause,
                others,
            })?;
        }
        if self.processes.is_empty() {
            return Err(Failure::failed("every process has ended"));
        }
        Ok(())
    }

    async fn look_for_leaders(
        &mut self,
        client: &Client,
        output: &mut Output<'_>,
    ) -> Result<(), Failure> {
        let routes = match client.regions().await {
            Ok(routes) => routes,
            Err(error) => {
                tracing::debug!(%error, "who leads is not known");
                return Ok(());
            }
        };
        for route in routes {
            let (Some(leader), Some(term)) = (route.leader, route.term) else {
                continue;
            };
            let region_id = route.region.id;
            if self.leaders.insert(region_id, (leader.id, term)) == Some((leader.id, term)) {
                continue;
            }
            let mut processes = self.processes.iter();
            let process = processes.find(|process| process.address == leader.address);
            output.event(&Event::Leader {
                region_id,
                store_id: leader.id,
                name: process.map(|process| process.name.clone()),
                address: leader.address,
                term,
            })?;
        }
        Ok(())
    }

    /// Keeps the logs of a playground that failed.
    fn left_behind(&mut self, failure: Failure) -> Failure {
        if self.directory.is_kept() || !matches!(failure, Failure::Failed(_)) {
            return failure;
        }
        self.directory.keep();
        let path = self.directory.path().display();
        failure.after_a_part(&format!("data and logs are left in {path}"))
    }

    /// Ends all processes: the placement driver last, so that stores can say good-bye. What is thrown away need not be flushed.
    async fn stop(&mut self) {
        if !self.directory.is_kept() {
            return;
        }
        let is_pd = |process: &Process| process.name == "pd";
        let (mut pd, mut stores): (Vec<_>, Vec<_>) = self.processes.drain(..).partition(is_pd);
        futures::future::join_all(stores.iter_mut().map(Process::stop)).await;
        futures::future::join_all(pd.iter_mut().map(Process::stop)).await;
    }
}
