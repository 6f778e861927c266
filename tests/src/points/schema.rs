//! A customer's points: what can be asked of them, and what happens to them.

use serde::{Deserialize, Serialize};

millrace::events! {
    /// What happens to points.
    pub enum PointsEvent for "points" in "loyalty" {
        PointsEarned [1],
    }
}

millrace::commands! {
    /// What can be asked of points.
    pub enum PointsCommand for "points" in "loyalty" {
        EarnPoints [1],
    }
}

/// An order earned points.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointsEarned {
    /// Which order.
    pub order_id: String,
    /// How many.
    pub points: i64,
}

/// Gives points for an order, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarnPoints {
    /// Which order.
    pub order_id: String,
    /// How many, above zero.
    pub points: i64,
}
