//! The invariants of `docs/ARCHITECTURE.md` that can be read off the sources.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

#[test]
fn the_library_holds_no_word_of_a_business_domain() -> Result<()> {
    let words = [
        "OrderPlaced",
        "PlaceOrder",
        "order.events",
        "order.placed",
        "customer",
        "Customer",
        "basket",
        "invoice",
        "payment",
        "product_id",
        "shipment",
    ];
    for folder in ["millrace/src", "millrace/migrations"] {
        for path in files(&root().join(folder))? {
            let text = fs::read_to_string(&path)?;
            for word in words {
                assert!(!text.contains(word), "{} says {word}", path.display());
            }
        }
    }
    Ok(())
}

#[test]
fn nothing_points_back_to_what_builds_on_it() -> Result<()> {
    let arrows = [
        ("millrace", &[][..]),
        ("schemas", &["millrace"]),
        ("producer", &["millrace", "schemas"]),
        ("processors", &["millrace", "schemas"]),
        ("projections", &["millrace", "schemas"]),
        (
            "cli",
            &[
                "millrace",
                "schemas",
                "producer",
                "processors",
                "projections",
            ],
        ),
    ];
    for (package, allowed) in arrows {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml"))?;
        for (other, _) in arrows.iter().filter(|(other, _)| !allowed.contains(other)) {
            let line = format!("\n{other}.workspace = true");
            assert!(!manifest.contains(&line), "{package} depends on {other}");
        }
    }
    Ok(())
}

#[test]
fn nothing_produces_but_the_relay_the_inbox_processors_and_effects() -> Result<()> {
    for folder in [
        "millrace/src",
        "schemas/src",
        "producer/src",
        "processors/src",
        "projections/src",
        "cli/src",
    ] {
        for path in files(&root().join(folder))? {
            let may = path.ends_with("millrace/src/log/transaction.rs")
                || path.ends_with("millrace/src/processor/ops/mod.rs")
                || path.ends_with("millrace/src/effect/emit.rs")
                || path.components().any(|part| {
                    ["relay", "inbox"]
                        .iter()
                        .any(|name| part.as_os_str() == *name)
                });
            let text = fs::read_to_string(&path)?;
            let (program, _) = text.split_once("#[cfg(test)]").unwrap_or((&text, ""));
            let produces = program.contains("rdkafka::producer");
            assert!(may || !produces, "{} produces to Kafka", path.display());
        }
    }
    Ok(())
}

#[test]
fn what_is_valid_by_position_reads_its_own_view_and_no_clock() -> Result<()> {
    let mut seen = 0;
    for path in files(&root().join("projections/src"))? {
        let text = fs::read_to_string(&path)?;
        for query in text.split("impl Query for ").skip(1) {
            let query = query.split("\n}\n").next().unwrap_or_default();
            if !query.contains("const BY_POSITION: bool = true;") {
                continue;
            }
            seen += 1;
            let place = format!("{}: {}", path.display(), &query[..query.len().min(40)]);
            let view = query
                .split("const VIEW: &'static str = \"")
                .nth(1)
                .and_then(|rest| rest.split('"').next())
                .unwrap_or_else(|| panic!("{place} names no view"));
            let own = format!("views.{}", view.replace('-', "_"));
            let read: Vec<&str> = query
                .match_indices("views.")
                .map(|(at, _)| &query[at..])
                .collect();
            // A statement that stands elsewhere would not be seen here.
            assert!(!read.is_empty(), "{place} has its statement elsewhere");
            assert!(read.iter().all(|read| read.starts_with(&own)), "{place}");
            let migration = format!("projections/migrations/{}.sql", view.replace('-', "_"));
            let sql = fs::read_to_string(root().join(migration))?;
            for clock in ["now()", "current_", "clock_timestamp", "random()"] {
                assert!(!query.contains(clock), "{place}: {clock}");
                assert!(!sql.contains(clock), "{view}: {clock}");
            }
        }
    }
    assert!(seen >= 3, "{seen} queries are valid by position");
    Ok(())
}

#[test]
fn a_route_is_mounted_with_its_operation_and_nowhere_else() -> Result<()> {
    for folder in [
        "millrace/src",
        "producer/src",
        "processors/src",
        "projections/src",
        "cli/src",
    ] {
        for path in files(&root().join(folder))? {
            // The in-house gateway is an outside: it listens on a port of its own.
            let may = ["http/api.rs", "http/server.rs", "gateway/in_house.rs"];
            if may.iter().any(|name| path.ends_with(name)) {
                continue;
            }
            let text = fs::read_to_string(&path)?;
            for word in ["axum::routing", "Router::new", "axum::Router"] {
                assert!(!text.contains(word), "{} says {word}", path.display());
            }
        }
    }
    let server = fs::read_to_string(root().join("millrace/src/http/server.rs"))?;
    assert!(!server.contains("axum::routing") && !server.contains("Router::new"));
    Ok(())
}
