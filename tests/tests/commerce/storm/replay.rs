//! Every view and every handler reads everything again.

use anyhow::{Result, ensure};

use super::{Interrupted, ROLES, Storm};
use crate::again;

impl Storm {
    /// The roles are stopped. After a reset of every group to its topics' start the views are the same, no mail goes out, no
    /// money moves, and nothing new is in the journal.
    pub(super) async fn everything_again(&self, interrupted: &Interrupted) -> Result<()> {
        let world = &self.shop.world;
        let rows = world.all_rows().await?;
        let (mails, money, events) = (self.taken(), self.money().await?, self.events().await?);
        let places = world.reset_all()?;
        let mut roles = Vec::new();
        for role in ROLES {
            roles.push(self.shop.role(role)?);
        }
        for role in &mut roles {
            role.ready().await?;
        }
        world.until_back(&places).await?;
        world.until_caught_up().await?;
        again::same(&rows, &world.all_rows().await?)?;
        ensure!(self.taken() == mails, "mails went out again");
        let now = self.money().await?;
        ensure!(now == money, "money moved: {money} before, {now} after");
        let now = self.events().await?;
        ensure!(now == events, "{events} events before, {now} after");
        self.mails(interrupted).await?;
        for role in roles {
            role.stop().await?;
        }
        self.say(&format!(
            "{} places of all groups were set back: {} views show the same, nothing else happened",
            places.len(),
            rows.len()
        ));
        Ok(())
    }

    /// How many requests the gateway was asked to carry out, with their amounts.
    async fn money(&self) -> Result<String> {
        let balances = self.shop.ledger.balances().await?;
        Ok(format!("{balances:?}"))
    }

    async fn events(&self) -> Result<i64> {
        let count = "SELECT count(*) FROM millrace.events";
        self.shop.world.journal(count).await
    }
}
