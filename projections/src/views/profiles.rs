//! The view `profiles`: whom one can follow.

use chrono::{DateTime, Utc};
use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Start};
use schemas::library::ProfileEvent;

millrace::view_row! {
    /// A profile.
    pub struct ProfileRow in "profiles" {
        /// As others read it.
        name: String,
        /// False where followers are told nothing.
        public: bool,
        /// How many follow it.
        followers: i64,
        /// Time of its newest event.
        updated_at: DateTime<Utc>,
    }
}

/// Folds a profile's events into its row.
pub struct Profiles;

impl Fold for Profiles {
    const NAME: &'static str = "profiles";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../migrations/profiles.sql");
    type Event = ProfileEvent;
    type Rows = Option<ProfileRow>;

    fn evolve(
        &self,
        row: &mut Option<ProfileRow>,
        event: &Recorded<ProfileEvent>,
    ) -> Result<(), Poison> {
        let updated_at = event.metadata.occurred_at;
        if let ProfileEvent::ProfileCreated(created) = &event.event {
            *row = Some(ProfileRow {
                name: created.name.clone(),
                public: created.public,
                followers: 0,
                updated_at,
            });
            return Ok(());
        }
        // Who has no profile may still have begun a collection.
        let Some(row) = row else {
            return Ok(());
        };
        row.updated_at = updated_at;
        match &event.event {
            ProfileEvent::ProfileVisibilityChanged(changed) => row.public = changed.public,
            ProfileEvent::ProfileFollowed(_) => row.followers += 1,
            ProfileEvent::ProfileUnfollowed(_) => row.followers -= 1,
            ProfileEvent::ProfileCreated(_)
            | ProfileEvent::ProfileCardAnnounced(_)
            | ProfileEvent::ProfileFirstCollectionStarted(_) => {}
        }
        Ok(())
    }
}
