//! Who calls.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::credentials::Credentials;
use super::guard::Guard;
use super::pass::Pass;
use super::refusal;
use super::rights::Rights;
use super::token::Token;
use crate::error::Fault;

/// Who calls, for as long as the call lasts.
///
/// What the caller may do is asked anew for each message of a stream ([`pass`](Self::pass)): as long as the rights are the same, that is
/// two loads and a comparison.
pub struct Caller(Option<Box<Known>>);

struct Known {
    guard: Arc<Guard>,
    credentials: Credentials,
    /// Of when the call began. `None`: it was not identified then.
    first: Option<Dated>,
    /// Of later rights. Locked only for a copy.
    later: Mutex<Option<Dated>>,
}

/// A pass, and the number of the guard's state that it is of.
struct Dated {
    epoch: u64,
    pass: Pass,
}

impl Caller {
    /// A caller that everything is allowed to: that of a server without a guard.
    pub fn anyone() -> Self {
        Self(None)
    }

    /// The caller that has shown this token to a server with this guard.
    pub fn with_token(guard: Arc<Guard>, token: &Token) -> Self {
        Self::new(guard, Credentials::of_token(token))
    }

    pub(crate) fn new(guard: Arc<Guard>, credentials: Credentials) -> Self {
        let mut known = Known {
            guard,
            credentials,
            first: None,
            later: Mutex::default(),
        };
        // Whoever is refused learns so from the first check.
        known.first = known.identified().unwrap_or_default();
        Self(Some(Box::new(known)))
    }

    /// What the caller may do at this moment.
    ///
    /// # Errors
    ///
    /// - UNAUTHENTICATED when it is no user.
    /// - UNAVAILABLE when the rights are missing or too old.
    pub fn pass(&self) -> Result<Pass, Fault> {
        match &self.0 {
            Some(known) => known.pass(),
            None => Ok(Pass::anyone()),
        }
    }

    /// What the caller may do under these rights, whether they are enforced or not. Nobody counts what it refuses.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED when it is no user of them. So is a caller of a server without a guard.
    pub fn pass_in(&self, rights: &Arc<Rights>) -> Result<Pass, Fault> {
        let known = self.0.as_ref().ok_or_else(refusal::nobody)?;
        let user = known.credentials.user_in(rights)?;
        Ok(Pass::under(rights, user))
    }

    /// The name of the user that the caller was when the call began. `None`: it was none, or rights were not enforced.
    pub fn name(&self) -> Option<&str> {
        self.0.as_ref()?.first.as_ref()?.pass.user()
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Caller").field(&self.name()).finish()
    }
}

impl Known {
    fn pass(&self) -> Result<Pass, Fault> {
        if !self.guard.is_enforced() {
            return Ok(Pass::anyone());
        }
        let pass = self.pass_of_now();
        pass.inspect_err(|refusal| self.guard.refusals().note(refusal))
    }

    fn pass_of_now(&self) -> Result<Pass, Fault> {
        let epoch = self.guard.epoch();
        let of_epoch = |dated: &Option<Dated>| {
            let dated = dated.as_ref().filter(|dated| dated.epoch == epoch);
            dated.map(|dated| dated.pass.clone())
        };
        let known = of_epoch(&self.first).or_else(|| of_epoch(&self.later()));
        let pass = match known {
            Some(pass) => pass,
            None => {
                let Some(identified) = self.identified()? else {
                    return Ok(Pass::anyone());
                };
                let pass = identified.pass.clone();
                *self.later() = Some(identified);
                pass
            }
        };
        self.guard.check_recent()?;
        Ok(pass)
    }

    /// Who the caller is under the rights of now. `None`: they are not enforced.
    fn identified(&self) -> Result<Option<Dated>, Fault> {
        let Some((epoch, held)) = self.guard.present()? else {
            return Ok(None);
        };
        let user = self.credentials.user_in(&held.rights)?;
        Ok(Some(Dated {
            epoch,
            pass: Pass::of_user(held, user),
        }))
    }

    fn later(&self) -> MutexGuard<'_, Option<Dated>> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
