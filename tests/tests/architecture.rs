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
                || path.ends_with("millrace/src/processor/ops.rs")
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
