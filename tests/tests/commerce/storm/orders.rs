//! What is ordered.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::shop::STYLES;

/// An order to be placed.
pub(super) struct Order {
    pub(super) id: String,
    /// The data of `PlaceOrder`.
    pub(super) command: Value,
}

impl Order {
    fn new(id: &str, style: &str, basket: &Value) -> Self {
        let command = json!({"customer_id": basket["customer_id"], "currency": basket["currency"],
                             "coordination": style, "payment": "gateway", "lines": basket["lines"]});
        Self {
            id: format!("{id}-{style}"),
            command,
        }
    }

    pub(super) fn customer(&self) -> &str {
        self.command["customer_id"].as_str().unwrap_or_default()
    }

    /// How much it wants of each product.
    pub(super) fn wants(&self) -> BTreeMap<&str, i64> {
        let mut wants = BTreeMap::new();
        for line in self.command["lines"].as_array().into_iter().flatten() {
            let product = line["product_id"].as_str().unwrap_or_default();
            *wants.entry(product).or_default() += line["quantity"].as_i64().unwrap_or_default();
        }
        wants
    }
}

/// How much all of them want of each product.
pub(super) fn wanted(orders: &[Order]) -> BTreeMap<&str, i64> {
    let mut wanted = BTreeMap::new();
    for (product, quantity) in orders.iter().flat_map(Order::wants) {
        *wanted.entry(product).or_default() += quantity;
    }
    wanted
}

/// So many orders of each style, of a few customers and products.
pub(super) fn invented(count: usize) -> Vec<Order> {
    let order = |number: usize| {
        let products: &[&str] = match number % 3 {
            0 => &["paper", "tea"],
            _ => &["cups", "tea"],
        };
        let line = |product: &&str| json!({"product_id": product, "quantity": 1 + number % 3, "total_cents": 250 + number});
        let lines: Vec<Value> = products.iter().map(line).collect();
        let basket =
            json!({"customer_id": format!("c{}", number % 17), "currency": "EUR", "lines": lines});
        STYLES.map(|style| Order::new(&format!("o{number}"), style, &basket))
    };
    (0..count).flat_map(order).collect()
}

/// The first baskets of a file, each once in either style; those that no order takes, with a quantity of nothing, left out.
pub(super) fn from_baskets(file: &Path, count: usize) -> Result<Vec<Order>> {
    let reader = std::fs::File::open(file).with_context(|| file.display().to_string())?;
    let mut orders = Vec::new();
    for line in BufReader::new(reader).lines() {
        if orders.len() == count * STYLES.len() {
            break;
        }
        let basket: Value = serde_json::from_str(&line?)?;
        let id = basket["order_id"].as_str().context("a basket without id")?;
        let [one, other] = STYLES.map(|style| Order::new(id, style, &basket));
        if one.wants().values().all(|quantity| *quantity > 0) && all_lines_hold(&basket) {
            orders.extend([one, other]);
        }
    }
    ensure!(
        orders.len() == count * STYLES.len(),
        "{} holds {} baskets that an order takes, not {count}",
        file.display(),
        orders.len() / STYLES.len()
    );
    Ok(orders)
}

fn all_lines_hold(basket: &Value) -> bool {
    let lines = basket["lines"].as_array();
    lines.is_some_and(|lines| {
        lines.iter().all(|line| {
            line["quantity"].as_i64() > Some(0) && line["total_cents"].as_i64() > Some(0)
        })
    })
}
