//! What a user says of themselves.

use schemas::identity::user::{UpdateUser, UserRegistered, UserUpdated};
use serde::{Deserialize, Serialize};

use crate::aggregates::identity::checks::{BadField, Person, check_avatar_url};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Profile {
    first_name: String,
    last_name: String,
    avatar_url: Option<String>,
    phone: Option<String>,
    timezone: Option<String>,
    language: Option<String>,
}

impl Profile {
    pub(super) fn of(registered: &UserRegistered) -> Self {
        Self {
            first_name: registered.first_name.clone(),
            last_name: registered.last_name.clone(),
            avatar_url: None,
            phone: registered.phone.clone(),
            timezone: registered.timezone.clone(),
            language: registered.language.clone(),
        }
    }

    /// The profile after a change: what is not given stays, an empty text clears.
    pub(super) fn with(&self, change: UpdateUser) -> Result<Self, BadField> {
        let may_be_missing = |given: Option<String>, now: &Option<String>| match given {
            None => now.clone(),
            Some(given) => Some(given).filter(|given| !given.is_empty()),
        };
        let changed = Self {
            first_name: change.first_name.unwrap_or_else(|| self.first_name.clone()),
            last_name: change.last_name.unwrap_or_else(|| self.last_name.clone()),
            avatar_url: may_be_missing(change.avatar_url, &self.avatar_url),
            phone: may_be_missing(change.phone, &self.phone),
            timezone: may_be_missing(change.timezone, &self.timezone),
            language: may_be_missing(change.language, &self.language),
        };
        changed.check()?;
        Ok(changed)
    }

    pub(super) fn check(&self) -> Result<(), BadField> {
        check_avatar_url(self.avatar_url.as_deref())?;
        let person = Person {
            first_name: &self.first_name,
            last_name: &self.last_name,
            phone: self.phone.as_deref(),
            timezone: self.timezone.as_deref(),
            language: self.language.as_deref(),
        };
        person.check()
    }
}

impl From<UserUpdated> for Profile {
    fn from(updated: UserUpdated) -> Self {
        Self {
            first_name: updated.first_name,
            last_name: updated.last_name,
            avatar_url: updated.avatar_url,
            phone: updated.phone,
            timezone: updated.timezone,
            language: updated.language,
        }
    }
}

impl From<Profile> for UserUpdated {
    fn from(profile: Profile) -> Self {
        Self {
            first_name: profile.first_name,
            last_name: profile.last_name,
            avatar_url: profile.avatar_url,
            phone: profile.phone,
            timezone: profile.timezone,
            language: profile.language,
        }
    }
}
