//! A saga whose process is killed as each of its steps begins.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::by_name;
use super::shop::Shop;
use crate::operate::world::LONG;

impl Shop {
    async fn begun(&self, order: &str) -> Result<i64> {
        let sql = format!(
            "SELECT count(*) FROM millrace.events WHERE aggregate_type = 'order_saga'
             AND aggregate_id = '{order}' AND event_type = 'OrderSagaStepBegun'"
        );
        self.world.journal(&sql).await
    }

    /// Waits until so many steps of an order's saga have begun, as the journal has it.
    async fn until_begun(&self, order: &str, steps: i64) -> Result<()> {
        let since = Instant::now();
        while self.begun(order).await? < steps {
            ensure!(
                since.elapsed() < LONG,
                "{order}: no {steps} steps\n{}",
                self.world.logs()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

/// The schedule: everything dies just when a step is in the journal and nobody, somebody or everybody has acted on it. Forwards
/// (reserve, pay, confirm), and back from a payment that is declined (refund, release, cancel).
#[tokio::test(flavor = "multi_thread")]
async fn a_saga_that_is_killed_as_each_step_begins_goes_on_and_repeats_nothing() -> Result<()> {
    let shop = Shop::open(by_name()).await?;
    let mut up = shop.up().await?;
    shop.receive("tea", 100).await?;
    let mut met = 0;
    for (order, steps) in [("kept", 1..=3), ("undone-Declines", 3..=5)] {
        up.ready().await?;
        shop.place(order, "orchestration", &["tea"]).await?;
        for step in steps {
            shop.until_begun(order, step).await?;
            drop(up);
            // A machine that stood still in between may have let it go further.
            met += i32::from(shop.begun(order).await? == step);
            up = shop.spawn()?;
        }
    }
    ensure!(met >= 3, "only {met} of 6 kills came in time");
    up.ready().await?;
    // One order is confirmed, charged once and has its goods; of the other one nothing is kept.
    assert_eq!(shop.add_up(2).await?, 1);
    shop.reserved("tea", 1).await?;
    shop.world.until_caught_up().await?;
    let ended = |steps: Vec<(String, String)>| -> Vec<String> {
        let step = |(step, status): (String, String)| format!("{step} {status}");
        steps.into_iter().map(step).collect()
    };
    let kept = ended(shop.steps("kept").await?);
    assert_eq!(kept, ["reserve done", "pay done", "confirm done"]);
    let undone = ended(shop.steps("undone-Declines").await?);
    let all = [
        "reserve done",
        "pay failed",
        "refund done",
        "release done",
        "cancel done",
    ];
    assert_eq!(undone, all);
    // No step was begun a second time.
    assert_eq!(shop.begun("kept").await?, 3);
    assert_eq!(shop.begun("undone-Declines").await?, 5);
    up.stop().await
}
