//! `rdbctl status`: one screen with the state of the cluster, what is wrong with it, and what to do.
//!
//! - `survey` asks everything at the same time, and waits only a short time.
//! - `finding` derives what is wrong from those answers alone.
//! - `screen` is how both are shown.

mod finding;
mod screen;
mod survey;

use std::time::Duration;

use tokio::time::sleep;

use crate::arguments::parse_timeout;
use crate::failure::Failure;
use crate::output::Output;
use crate::session::Session;
use finding::findings;
use screen::Screen;
use survey::Survey;

const AFTER_HELP: &str = "\
Asks the placement drivers and each store, all at the same time. What does not
answer within --wait is said to be unreachable. Without a placement driver the
stores are not known.

An ALARM is something that has to be done; what to do stands below it. A notice
is something to know. Exit code 0 when there is no alarm, 1 otherwise.

HEALTH is what the store answers here, STATE what the placement driver knows by its
heartbeats: see `rdbctl health --help` and `rdbctl store list --help`. PEERS is the
number of regions of which the store has a replica, LEADS of those that it leads.
READS/S, WRITES/S and P99, the time of the slowest hundredth of reads or writes,
whichever is slower, are those of the seconds before its last heartbeat.

Examples:
  rdbctl status
  rdbctl status --watch
  rdbctl status -o json                 one object; with --watch one for each look";

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct StatusArguments {
    /// Show it again and again, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// The time between two looks of --watch
    #[arg(long, value_name = "TIME", value_parser = parse_timeout, default_value = "2s", requires = "watch")]
    interval: Duration,
    /// How long to wait for answers, all in all; --timeout if that is less
    #[arg(long, value_name = "TIME", value_parser = parse_timeout, default_value = "1500ms")]
    wait: Duration,
}

impl StatusArguments {
    pub(crate) fn watches(&self) -> bool {
        self.watch
    }
}

pub(crate) async fn run(
    arguments: &StatusArguments,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let session = session.within(arguments.wait);
    if arguments.watch {
        return watch(arguments.interval, &session, output).await;
    }
    let screen = look(&session).await?;
    output.event(&screen)?;
    match screen.alarms {
        0 => Ok(()),
        1 => Err(Failure::Shown("there is 1 alarm".to_owned())),
        alarms => Err(Failure::Shown(format!("there are {alarms} alarms"))),
    }
}

/// Looks until Ctrl-C, which is the way to end it and no failure.
async fn watch(
    interval: Duration,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let looked = async {
            output.redraw(&look(session).await?)?;
            sleep(interval).await;
            Ok::<(), Failure>(())
        };
        tokio::select! {
            looked = looked => looked?,
            _ = &mut interrupted => return Ok(()),
        }
    }
}

async fn look(session: &Session) -> Result<Screen, Failure> {
    let survey = Survey::of(session).await?;
    let findings = findings(&survey);
    Ok(Screen::new(survey, findings))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use clap::Parser;
    use tokio::time::Instant;

    use super::*;
    use crate::arguments::{Arguments, Command};
    use crate::encoding::KeyEncoding;
    use crate::output::Format;

    /// Within this time the first screen is promised.
    const FIRST_SCREEN: Duration = Duration::from_secs(2);

    /// The clock of the test goes on only where everything waits.
    #[tokio::test(start_paused = true)]
    async fn all_that_say_nothing_are_waited_for_once_and_for_1500_ms_at_most() {
        let silent = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let addresses = silent.each_ref().map(|listener| {
            let address = listener.local_addr().expect("it is bound");
            address.to_string()
        });
        let addresses = addresses.join(",");
        let line = ["rdbctl", "--pd", addresses.as_str(), "status"];
        let Arguments { global, command } = Arguments::try_parse_from(line).expect("usage");
        let Command::Status(arguments) = command else {
            panic!("another command");
        };
        assert!(arguments.wait <= Duration::from_millis(1500));
        let session = Session::new(&global).expect("usage");
        let mut written: Vec<u8> = Vec::new();
        let mut output = Output::new(Format::Json, KeyEncoding::Text, false, &mut written);
        let began = Instant::now();
        let told = run(&arguments, &session, &mut output).await;
        let took = began.elapsed();
        told.expect_err("nobody answers");
        assert!(took < FIRST_SCREEN, "{took:?}");
    }
}
