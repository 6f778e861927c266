//! The view `users`: every user as it stands.

use chrono::{DateTime, Utc};
use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Start};
use schemas::identity::user::{UserEvent, UserRegistered, UserUpdated};

millrace::view_row! {
    /// A user. Nothing of the password is in it, nor where its hash stands.
    pub struct UserRow in "users" {
        /// Which tenant.
        tenant_id: String,
        /// Address, normalized.
        email: String,
        /// Given name.
        first_name: String,
        /// Family name; may be empty.
        last_name: String,
        /// Computed: both names, as far as there are any, and else what stands before the `@` of the address.
        display_name: String,
        /// `registered`, `active` or `deactivated`.
        status: String,
        /// `member` or `admin`.
        role: String,
        /// The user has shown that the address is theirs.
        email_verified: bool,
        /// Where the picture is.
        avatar_url: Option<String>,
        /// E.164.
        phone: Option<String>,
        /// IANA name.
        timezone: Option<String>,
        /// BCP 47 tag.
        language: Option<String>,
        /// When the user came.
        registered_at: DateTime<Utc>,
        /// Time of its newest event.
        updated_at: DateTime<Utc>,
    }
}

/// Folds a user's events into its row.
pub struct Users;

impl Fold for Users {
    const NAME: &'static str = "users";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../../migrations/identity/users.sql");
    type Event = UserEvent;
    type Rows = Option<UserRow>;

    fn evolve(&self, row: &mut Option<UserRow>, event: &Recorded<UserEvent>) -> Result<(), Poison> {
        let at = event.metadata.occurred_at;
        if let UserEvent::UserRegistered(registered) = &event.event {
            *row = Some(registered_row(registered, at));
            return Ok(());
        }
        // There is no row where a registration was refused a user of an id that nobody has.
        let Some(row) = row else {
            return Ok(());
        };
        row.updated_at = at;
        match &event.event {
            UserEvent::UserRegistered(_) | UserEvent::UserRegistrationRefused(_) => {}
            UserEvent::UserEmailVerified(_) => row.email_verified = true,
            UserEvent::UserActivated(_) => "active".clone_into(&mut row.status),
            UserEvent::UserUpdated(updated) => update(row, updated),
            UserEvent::UserRoleChanged(changed) => {
                changed.role.as_str().clone_into(&mut row.role);
            }
            UserEvent::UserDeactivated(_) => "deactivated".clone_into(&mut row.status),
        }
        Ok(())
    }
}

fn registered_row(registered: &UserRegistered, at: DateTime<Utc>) -> UserRow {
    UserRow {
        tenant_id: registered.tenant_id.clone(),
        email: registered.email.clone(),
        first_name: registered.first_name.clone(),
        last_name: registered.last_name.clone(),
        display_name: display_name(
            &registered.first_name,
            &registered.last_name,
            &registered.email,
        ),
        status: "registered".to_owned(),
        role: registered.role.as_str().to_owned(),
        email_verified: false,
        avatar_url: None,
        phone: registered.phone.clone(),
        timezone: registered.timezone.clone(),
        language: registered.language.clone(),
        registered_at: at,
        updated_at: at,
    }
}

fn update(row: &mut UserRow, updated: &UserUpdated) {
    row.first_name.clone_from(&updated.first_name);
    row.last_name.clone_from(&updated.last_name);
    row.display_name = display_name(&updated.first_name, &updated.last_name, &row.email);
    row.avatar_url.clone_from(&updated.avatar_url);
    row.phone.clone_from(&updated.phone);
    row.timezone.clone_from(&updated.timezone);
    row.language.clone_from(&updated.language);
}

fn display_name(first_name: &str, last_name: &str, email: &str) -> String {
    let names = [first_name.trim(), last_name.trim()];
    let names: Vec<&str> = names.into_iter().filter(|name| !name.is_empty()).collect();
    match names[..] {
        [] => email.split('@').next().unwrap_or_default().to_owned(),
        _ => names.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::display_name;

    #[test]
    fn a_display_name_is_what_there_is_of_the_names_or_else_of_the_address() {
        let email = "ada.l@example.com";
        assert_eq!(display_name(" Ada ", "Lovelace", email), "Ada Lovelace");
        assert_eq!(display_name("Ada", "", email), "Ada");
        assert_eq!(display_name(" ", "Lovelace", email), "Lovelace");
        assert_eq!(display_name("", "", email), "ada.l");
    }
}
