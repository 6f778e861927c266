//! A customer's points, whose id is the customer's.

use std::collections::BTreeSet;

use millrace::aggregate::{Aggregate, Context};
use serde::{Deserialize, Serialize};

use super::schema::{EarnPoints, PointsCommand, PointsEarned, PointsEvent};

/// Why points are not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Nothing to give.
    #[error("points are {0}, must be above 0")]
    NotAboveZero(i64),
}

/// Points, as far as a decision reads them: which orders had theirs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Points {
    orders: BTreeSet<String>,
}

impl Aggregate for Points {
    type Command = PointsCommand;
    type Event = PointsEvent;
    type Rejection = Rejection;

    // Counts up when the fields above change: snapshots of another shape are not read.
    const SHAPE: i32 = 1;

    fn decide(&self, command: PointsCommand, _: &Context) -> Result<Vec<PointsEvent>, Rejection> {
        match command {
            PointsCommand::EarnPoints(EarnPoints { points, .. }) if points <= 0 => {
                Err(Rejection::NotAboveZero(points))
            }
            PointsCommand::EarnPoints(EarnPoints { order_id, points }) => {
                if self.orders.contains(&order_id) {
                    return Ok(Vec::new());
                }
                Ok(vec![PointsEarned { order_id, points }.into()])
            }
        }
    }

    fn evolve(&mut self, event: &PointsEvent) {
        match event {
            PointsEvent::PointsEarned(earned) => {
                self.orders.insert(earned.order_id.clone());
            }
        }
    }
}
