//! What was sold on one day in UTC; the day, such as `2026-01-31`, is the aggregate's id.
//!
//! Whoever wants to know what was sold reads one event a day instead of one an order: the rule and its bounds.
//! - **Filtered**: a sale is an order that was confirmed with its money ([`schemas::order::OrderPaid`]); drafts, lines, orders on invoice
//!   and cancelled ones are none. It counts for the day on which it was confirmed, and stays: an order cancelled later is in
//!   the refunds of `payments`, not here.
//! - **Batched**: [`SalesDigestIssued`] comes once, [`GRACE`] after the day's end. A sale that is counted later (its events were late)
//!   opens the digest again, and one more with the next revision comes [`GRACE`] after it, however many sales came meanwhile: at most 24
//!   further ones a day and in fact hardly any.
//! - **Bounded**: the state is a sum for each currency, at most [`CURRENCIES_MAX`]; more are refused. A sum that would
//!   overflow is refused too.

use std::collections::BTreeMap;

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use millrace::aggregate::{Aggregate, Context};
use millrace::timer::TimerChange;
use schemas::sales_day::*;
use serde::{Deserialize, Serialize};

/// How long after the day's end, or after a late sale, the digest waits for more.
const GRACE: TimeDelta = TimeDelta::hours(1);

/// ISO 4217 has fewer than 200.
const CURRENCIES_MAX: usize = 200;

/// Name of the timer.
const TIMER: &str = "digest";

/// Why a sale is not counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The id is no day.
    #[error("{0:?} is not a day such as 2026-01-31")]
    Day(String),
    /// Something that costs nothing or less.
    #[error("total is {0} cents, must be at least 1")]
    Total(i64),
    /// More than is handled.
    #[error("the day's sum of {0} is too large")]
    Sum(String),
    /// More than is handled.
    #[error("the day has sales in {CURRENCIES_MAX} currencies already")]
    Currencies,
    /// Nothing was sold.
    #[error("nothing was sold since the last digest")]
    NothingNew,
}

/// A day's sales, as far as a decision reads them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SalesDay {
    /// Orders and cents by currency.
    totals: BTreeMap<String, (i64, i64)>,
    /// The newest digest's; 0 before the first.
    revision: i64,
    /// A digest is due.
    open: bool,
}

impl Aggregate for SalesDay {
    type Command = SalesDayCommand;
    type Event = SalesDayEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(
        &self,
        command: SalesDayCommand,
        context: &Context,
    ) -> Result<Vec<SalesDayEvent>, Rejection> {
        match command {
            SalesDayCommand::CountSale(sale) => self.count(sale, context),
            SalesDayCommand::IssueSalesDigest(IssueSalesDigest {}) if self.open => {
                Ok(vec![self.digest().into()])
            }
            SalesDayCommand::IssueSalesDigest(IssueSalesDigest {}) => Err(Rejection::NothingNew),
        }
    }

    fn evolve(&mut self, event: &SalesDayEvent) {
        match event {
            SalesDayEvent::SalesDayOpened(_) | SalesDayEvent::SalesDigestReopened(_) => {
                self.open = true;
            }
            SalesDayEvent::SaleCounted(sale) => {
                let (orders, cents) = self.totals.entry(sale.currency.clone()).or_default();
                *orders += 1;
                *cents += sale.total_cents;
            }
            SalesDayEvent::SalesDigestIssued(digest) => {
                self.revision = digest.revision;
                self.open = false;
            }
        }
    }

    fn timers(event: &SalesDayEvent) -> Vec<TimerChange<SalesDayCommand>> {
        let after = match event {
            SalesDayEvent::SalesDayOpened(opened) => opened.closes_at - opened.opened_at,
            SalesDayEvent::SalesDigestReopened(_) => GRACE,
            SalesDayEvent::SaleCounted(_) | SalesDayEvent::SalesDigestIssued(_) => {
                return Vec::new();
            }
        };
        // The day may be over, where its events were late.
        let after = after.to_std().unwrap_or_default();
        vec![TimerChange::set(TIMER, after, IssueSalesDigest {})]
    }
}

impl SalesDay {
    fn count(&self, sale: CountSale, context: &Context) -> Result<Vec<SalesDayEvent>, Rejection> {
        let day = &context.aggregate_id;
        let closes_at = closes_at(day).ok_or_else(|| Rejection::Day(day.clone()))?;
        let CountSale {
            order_id,
            currency,
            total_cents,
        } = sale;
        if total_cents <= 0 {
            return Err(Rejection::Total(total_cents));
        }
        match self.totals.get(&currency) {
            Some((_, cents)) => {
                let sum = cents.checked_add(total_cents);
                sum.ok_or_else(|| Rejection::Sum(currency.clone()))?;
            }
            None if self.totals.len() >= CURRENCIES_MAX => return Err(Rejection::Currencies),
            None => {}
        }
        let opened: Option<SalesDayEvent> = match (self.totals.is_empty(), self.open) {
            (true, _) => {
                let opened_at = context.now;
                let opened = SalesDayOpened {
                    opened_at,
                    closes_at,
                };
                Some(opened.into())
            }
            (false, true) => None,
            (false, false) => {
                let revision = self.revision;
                Some(SalesDigestReopened { revision }.into())
            }
        };
        let counted = SaleCounted {
            order_id,
            currency,
            total_cents,
        };
        Ok(opened.into_iter().chain([counted.into()]).collect())
    }

    fn digest(&self) -> SalesDigestIssued {
        let total = |(currency, (orders, total_cents)): (&String, &(i64, i64))| CurrencyTotal {
            currency: currency.clone(),
            orders: *orders,
            total_cents: *total_cents,
        };
        SalesDigestIssued {
            revision: self.revision + 1,
            totals: self.totals.iter().map(total).collect(),
        }
    }
}

/// When the digest of a day is due; none for what is no day.
fn closes_at(day: &str) -> Option<DateTime<Utc>> {
    let date: NaiveDate = day.parse().ok()?;
    // As it is written, so that a day has one aggregate.
    let one_way = date.to_string() == day;
    let next = date.checked_add_days(Days::new(1)).filter(|_| one_way)?;
    next.and_hms_opt(0, 0, 0)?
        .and_utc()
        .checked_add_signed(GRACE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace::testing::given;
    use std::time::Duration;

    const DAY: &str = "2026-01-01";

    fn sale(currency: &str, total_cents: i64) -> CountSale {
        CountSale {
            order_id: "o".into(),
            currency: currency.into(),
            total_cents,
        }
    }

    fn counted(currency: &str, total_cents: i64) -> SalesDayEvent {
        SaleCounted {
            order_id: "o".into(),
            currency: currency.into(),
            total_cents,
        }
        .into()
    }

    fn opened() -> SalesDayEvent {
        SalesDayOpened {
            opened_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            closes_at: "2026-01-02T01:00:00Z".parse().unwrap(),
        }
        .into()
    }

    fn digest(revision: i64, totals: &[(&str, i64, i64)]) -> SalesDayEvent {
        let total = |(currency, orders, total_cents): &(&str, i64, i64)| CurrencyTotal {
            currency: (*currency).to_owned(),
            orders: *orders,
            total_cents: *total_cents,
        };
        SalesDigestIssued {
            revision,
            totals: totals.iter().map(total).collect(),
        }
        .into()
    }

    #[test]
    fn the_first_sale_opens_the_day_and_further_ones_are_counted() {
        given::<SalesDay>([])
            .id(DAY)
            .when(sale("EUR", 300))
            .then([opened(), counted("EUR", 300)]);
        given::<SalesDay>([opened(), counted("EUR", 300)])
            .id(DAY)
            .when(sale("SEK", 50))
            .then([counted("SEK", 50)]);
    }

    #[test]
    fn a_digest_sums_the_day_by_currency_and_comes_once() {
        let sold = [
            opened(),
            counted("SEK", 50),
            counted("EUR", 300),
            counted("EUR", 200),
        ];
        let totals = [("EUR", 2, 500), ("SEK", 1, 50)];
        given::<SalesDay>(sold.clone())
            .id(DAY)
            .when(IssueSalesDigest {})
            .then([digest(1, &totals)]);
        given::<SalesDay>([sold.as_slice(), &[digest(1, &totals)]].concat())
            .id(DAY)
            .when(IssueSalesDigest {})
            .then_rejected(Rejection::NothingNew);
    }

    #[test]
    fn a_day_has_a_bounded_number_of_currencies_and_goes_on_counting_those() {
        let name = |number: usize| {
            let letter = |at: usize| char::from(b'A' + (at % 26) as u8);
            String::from_iter([letter(number / 676), letter(number / 26), letter(number)])
        };
        let full = (0..CURRENCIES_MAX).map(|number| counted(&name(number), 1));
        let full: Vec<SalesDayEvent> = [opened()].into_iter().chain(full).collect();
        given::<SalesDay>(full.clone())
            .id(DAY)
            .when(sale(&name(CURRENCIES_MAX), 1))
            .then_rejected(Rejection::Currencies);
        given::<SalesDay>(full)
            .id(DAY)
            .when(sale("AAA", 2))
            .then([counted("AAA", 2)]);
    }

    #[test]
    fn sales_that_come_late_lead_to_one_more_digest_together() {
        let reopened = || SalesDayEvent::from(SalesDigestReopened { revision: 1 });
        let issued = [opened(), counted("EUR", 300), digest(1, &[("EUR", 1, 300)])];
        given::<SalesDay>(issued.clone())
            .id(DAY)
            .when(sale("EUR", 1))
            .then([reopened(), counted("EUR", 1)]);
        let late = [issued.as_slice(), &[reopened(), counted("EUR", 1)]].concat();
        given::<SalesDay>(late.clone())
            .id(DAY)
            .when(sale("EUR", 2))
            .then([counted("EUR", 2)]);
        given::<SalesDay>(late)
            .id(DAY)
            .when(IssueSalesDigest {})
            .then([digest(2, &[("EUR", 2, 301)])]);
    }

    #[test]
    fn the_digest_is_due_an_hour_after_the_day_or_after_a_late_sale() {
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        let due = |after| TimerChange::set("digest", after, IssueSalesDigest {});
        assert_eq!(SalesDay::timers(&opened()), [due(hours(25))]);
        let reopened = SalesDigestReopened { revision: 1 }.into();
        assert_eq!(SalesDay::timers(&reopened), [due(hours(1))]);
        let long_ago = SalesDayOpened {
            opened_at: "2026-01-05T00:00:00Z".parse().unwrap(),
            closes_at: "2026-01-02T01:00:00Z".parse().unwrap(),
        };
        assert_eq!(SalesDay::timers(&long_ago.into()), [due(Duration::ZERO)]);
    }

    #[test]
    fn only_a_day_has_sales_and_only_what_was_sold_counts() {
        for id in ["yesterday", "2026-02-30", "2026-1-1"] {
            given::<SalesDay>([])
                .id(id)
                .when(sale("EUR", 1))
                .then_rejected(Rejection::Day(id.into()));
        }
        given::<SalesDay>([])
            .id(DAY)
            .when(sale("EUR", 0))
            .then_rejected(Rejection::Total(0));
        given::<SalesDay>([opened(), counted("EUR", i64::MAX)])
            .id(DAY)
            .when(sale("EUR", 1))
            .then_rejected(Rejection::Sum("EUR".into()));
    }
}
