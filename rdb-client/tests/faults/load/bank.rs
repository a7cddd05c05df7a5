//! Clients that move money between accounts. No call spans two keys, so a transfer is written to a journal first, and then
//! carried out account by account. An account holds its balance and the transfers that it has seen, so that each is carried out
//! once, however often somebody tries: a write of unknown fate is settled by looking again and by swapping the same version.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use rdb_client::{Client, Error};

use super::{Worker, answered, assert_is_of_a_fault, may_be_applied};

const ACCOUNTS: usize = 4;
const FIRST_BALANCE: i64 = 1000;

/// The transfers of one client that may be in the journal.
#[derive(Default)]
pub(super) struct Transfers(Vec<String>);

struct Account {
    version: u64,
    balance: i64,
    seen: BTreeSet<String>,
}

#[derive(Clone, Copy)]
struct Transfer {
    from: usize,
    to: usize,
    amount: i64,
}

/// Opens the accounts.
pub(super) async fn open(client: &Client) {
    for account in 0..ACCOUNTS {
        let opened = client
            .cas_put(account_key(account), 0, FIRST_BALANCE.to_string())
            .await;
        opened.expect("no fault has begun");
    }
}

pub(super) async fn run(mut worker: Worker) -> Transfers {
    let mut transfers = Transfers::default();
    while worker.goes_on().await {
        let id = format!("{}.{}", worker.number, transfers.0.len());
        let from = worker.random.usize(0..ACCOUNTS);
        let transfer = Transfer {
            from,
            to: (from + worker.random.usize(1..ACCOUNTS)) % ACCOUNTS,
            amount: worker.random.i64(1..100),
        };
        transfers.0.push(id.clone());
        match worker
            .client
            .cas_put(journal_key(&id), 0, transfer.to_text())
            .await
        {
            Ok(_) => {}
            Err(Error::Conflict { .. }) => {
                panic!("VIOLATION: transfer {id} was put into the journal twice")
            }
            // One that is not known to be in the journal is carried out at the end, if it is there.
            Err(error) => {
                assert_is_of_a_fault(&error);
                continue;
            }
        }
        // What is left undone is done at the end.
        let accounts = [
            (transfer.from, -transfer.amount),
            (transfer.to, transfer.amount),
        ];
        for (account, change) in accounts {
            while worker.goes_on().await {
                match change_account(&worker.client, account, change, &id).await {
                    Ok(true) => {
                        worker.done();
                        break;
                    }
                    Ok(false) => {}
                    Err(error) => assert_is_of_a_fault(&error),
                }
            }
        }
    }
    transfers
}

/// Carries out what is in the journal, and says what does not hold then.
pub(super) async fn problems(client: &Client, transfers: &[Transfers]) -> String {
    let mut problems = String::new();
    let mut expected = [const { (FIRST_BALANCE, BTreeSet::new()) }; ACCOUNTS];
    for id in transfers.iter().flat_map(|transfers| &transfers.0) {
        let Some(journal) = answered(async || client.get(journal_key(id)).await).await else {
            continue;
        };
        let transfer = Transfer::of_text(str::from_utf8(&journal.value).expect("text"));
        for (account, change) in [
            (transfer.from, -transfer.amount),
            (transfer.to, transfer.amount),
        ] {
            let carry_out = async || match change_account(client, account, change, id).await {
                Err(error) if may_be_applied(&error) => Ok(false),
                changed => changed,
            };
            while !answered(carry_out).await {}
            let (balance, seen) = &mut expected[account];
            *balance += change;
            seen.insert(id.clone());
        }
    }
    let mut sum = 0;
    for (number, (balance, seen)) in expected.into_iter().enumerate() {
        let account = answered(async || read(client, number).await).await;
        sum += account.balance;
        if account.balance != balance || account.seen != seen {
            let (found, transfers) = (account.balance, account.seen.len());
            let _ = writeln!(
                problems,
                "account {number} has {found} after {transfers} transfers, and should have {balance} after {}",
                seen.len()
            );
        }
    }
    if sum != FIRST_BALANCE * ACCOUNTS as i64 {
        let _ = writeln!(problems, "all accounts together have {sum}");
    }
    problems
}

/// Whether the account has seen the transfer now. Otherwise somebody else changed it meanwhile.
async fn change_account(
    client: &Client,
    number: usize,
    change: i64,
    id: &str,
) -> Result<bool, Error> {
    let account = read(client, number).await?;
    if account.seen.contains(id) {
        return Ok(true);
    }
    let mut value = (account.balance + change).to_string();
    for seen in account.seen.iter().map(String::as_str).chain([id]) {
        let _ = write!(value, " {seen}");
    }
    match client
        .cas_put(account_key(number), account.version, value)
        .await
    {
        Ok(_) => Ok(true),
        Err(Error::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn read(client: &Client, number: usize) -> Result<Account, Error> {
    let found = client.get(account_key(number)).await?;
    let found = found.unwrap_or_else(|| panic!("VIOLATION: account {number} is gone"));
    let text = str::from_utf8(&found.value).expect("text");
    let mut words = text.split(' ');
    let balance = words.next().expect("a balance").parse().expect("a number");
    Ok(Account {
        version: found.version,
        balance,
        seen: words.map(str::to_owned).collect(),
    })
}

fn account_key(number: usize) -> String {
    format!("account-{number}")
}

fn journal_key(id: &str) -> String {
    format!("transfer-{id}")
}

impl Transfer {
    fn to_text(self) -> String {
        let Self { from, to, amount } = self;
        format!("{from} {to} {amount}")
    }

    fn of_text(text: &str) -> Self {
        let words: Vec<i64> = text
            .split(' ')
            .map(|word| word.parse().expect("a number"))
            .collect();
        let account = |word: i64| usize::try_from(word).expect("an account");
        let [from, to, amount] = words[..] else {
            panic!("a transfer is {text:?}");
        };
        Self {
            from: account(from),
            to: account(to),
            amount,
        }
    }
}
