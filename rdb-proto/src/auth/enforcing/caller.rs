//! Who calls.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use hyper::HeaderMap;

use super::credentials::Credentials;
use super::guard::{Guard, Held, OFF};
use super::pass::Pass;
use super::refusal;
use super::rights::Rights;
use super::token::Token;
use crate::authpb;
use crate::error::Fault;

/// Who calls, for as long as the call lasts.
///
/// The rights are checked again for each message of a stream ([`pass`](Self::pass)): while the rights are the same, the caller is
/// not looked up again.
///
/// A caller keeps no rights alive: a silent stream does not hold the rights from its last message.
pub struct Caller(Option<Box<Known>>);

struct Known {
    guard: Arc<Guard>,
    credentials: Credentials,
    /// Who it was when it was a user last. Locked only for a copy.
    last: Mutex<Option<Identified>>,
}

/// A user, and the number of the guard's state in which the caller was that user.
struct Identified {
    epoch: u64,
    held: Weak<Held>,
    /// The position of the user in the rights.
    user: usize,
    name: Arc<str>,
}

impl Caller {
    /// A caller that everything is allowed to: that of a server without a guard.
    pub fn anyone() -> Self {
        Self(None)
    }

    /// A caller that is no user: that of a request which has lost its call on the way to the handler.
    pub fn nobody() -> Self {
        let no_users = authpb::Rights {
            version: 1,
            users: Vec::new(),
        };
        let rights = Rights::of(&no_users).expect("there is no user that could be wrong");
        let guard = Guard::without_limit(Arc::new(rights));
        Self::new(Arc::new(guard), Credentials::of(&HeaderMap::new(), None))
    }

    /// The caller that has shown this token to a server with this guard.
    pub fn with_token(guard: Arc<Guard>, token: &Token) -> Self {
        Self::new(guard, Credentials::of_token(token))
    }

    /// A caller that is looked up when its pass is first asked for.
    pub(crate) fn new(guard: Arc<Guard>, credentials: Credentials) -> Self {
        Self(Some(Box::new(Known {
            guard,
            credentials,
            last: Mutex::default(),
        })))
    }

    /// Looks it up, so that it has a [`name`](Self::name). A refusal here is not counted.
    pub(crate) fn look_up(&self) {
        if let Some(known) = self.0.as_ref().filter(|known| known.guard.is_enforced()) {
            // A refusal is ignored here: `pass` returns it.
            let _ = known.pass_of_now();
        }
    }

    /// What the caller may do at this moment.
    ///
    /// # Errors
    ///
    /// - UNAUTHENTICATED when it is no user.
    /// - UNAVAILABLE for every caller when the rights are missing or too old.
    pub fn pass(&self) -> Result<Pass, Fault> {
        match &self.0 {
            Some(known) => known.pass(),
            None => Ok(Pass::anyone()),
        }
    }

    /// What the caller may do under these rights, whether they are enforced or not. Refusals are not counted.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED when it is no user of them. So is a caller of a server without a guard.
    pub fn pass_in(&self, rights: &Arc<Rights>) -> Result<Pass, Fault> {
        let known = self.0.as_ref().ok_or_else(refusal::nobody)?;
        let user = known.credentials.user_in(rights)?;
        Ok(Pass::under(rights, user))
    }

    /// The name of the user that the last successful look-up found; a failed one leaves it. `None`: no look-up has succeeded. While rights
    /// are not enforced, callers are not looked up.
    pub fn name(&self) -> Option<Arc<str>> {
        let last = self.0.as_ref()?.last();
        last.as_ref().map(|last| Arc::clone(&last.name))
    }

    /// Whether the guard has changed its state since the last successful look-up of the caller. A caller without one counts as looked up
    /// while rights were off.
    pub(crate) fn has_other_rights(&self) -> bool {
        let looked_up_in = |known: &Known| known.last().as_ref().map_or(OFF, |last| last.epoch);
        let known = self.0.as_ref();
        known.is_some_and(|known| looked_up_in(known) != known.guard.epoch())
    }

    /// Whether it has been granted anything, or rights are not enforced. Old rights count, too. Nobody counts what this refuses.
    pub(crate) fn is_signed_in(&self) -> bool {
        let Some(known) = &self.0 else {
            return true;
        };
        match known.guard.present() {
            Ok(None) => true,
            Ok(Some((_, held))) => {
                let user = known.credentials.user_in(&held.rights).ok();
                let user = user.and_then(|user| held.rights.user(user));
                user.is_some_and(|user| user.has_grants)
            }
            Err(_) => false,
        }
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
        let remembered = self.last().as_ref().and_then(|last| last.pass_in(epoch));
        if let Some(pass) = remembered {
            self.guard.check_recent()?;
            return Ok(pass);
        }
        let Some((epoch, held)) = self.guard.present()? else {
            return Ok(Pass::anyone());
        };
        // Before the caller is looked up: whom old rights do not know may have become a user since.
        self.guard.check_recent()?;
        let user = self.credentials.user_in(&held.rights)?;
        let name = held.rights.user(user).map(|user| Arc::clone(&user.name));
        *self.last() = Some(Identified {
            epoch,
            held: Arc::downgrade(&held),
            user,
            name: name.unwrap_or_default(),
        });
        Ok(Pass::of_user(held, user))
    }

    fn last(&self) -> MutexGuard<'_, Option<Identified>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Identified {
    /// What the user may do in the state of the guard with this number. `None`: it was looked up in another one.
    fn pass_in(&self, epoch: u64) -> Option<Pass> {
        if self.epoch != epoch {
            return None;
        }
        // Gone if the state has ended just now.
        let held = self.held.upgrade()?;
        Some(Pass::of_user(held, self.user))
    }
}
