//! The view `points`: how many each customer has.

use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Start};

use super::schema::PointsEvent;

millrace::view_row! {
    /// A customer's points.
    pub struct PointsRow in "points" {
        /// How many.
        points: i64,
        /// From how many orders.
        orders: i64,
    }
}

/// Folds a customer's events into their row.
pub struct PointsView;

impl Fold for PointsView {
    const NAME: &'static str = "points";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("points.sql");
    type Event = PointsEvent;
    type Rows = Option<PointsRow>;

    fn evolve(
        &self,
        row: &mut Option<PointsRow>,
        event: &Recorded<PointsEvent>,
    ) -> Result<(), Poison> {
        let row = row.get_or_insert_with(|| PointsRow {
            points: 0,
            orders: 0,
        });
        match &event.event {
            PointsEvent::PointsEarned(earned) => {
                row.points += earned.points;
                row.orders += 1;
            }
        }
        Ok(())
    }
}
