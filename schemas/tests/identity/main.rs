//! Ties every event and command struct of the identity domain to its schema files.

mod commands;
mod events;

use std::path::{Path, PathBuf};

use schemas::identity::email::email_id;

fn golden(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

fn text(of: &str) -> String {
    of.to_owned()
}

fn some(of: &str) -> Option<String> {
    Some(of.to_owned())
}

#[test]
fn an_address_is_the_same_one_however_it_is_written() {
    let id = email_id("acme", "ada@example.com");
    assert_eq!(email_id("acme", " Ada@Example.COM\t"), id);
    assert_ne!(email_id("acme", "ada.l@example.com"), id);
    assert_ne!(email_id("globex", "ada@example.com"), id);
}

#[test]
fn the_id_of_an_address_stays_what_it_is() {
    // Pinned: under another id a claimed address would be free again.
    let hash = "b4c9a289323b21a01c3e940f150eb9b8c542587f1abfd8f0e1cc1ffc5e475514";
    assert_eq!(email_id("acme", "user@example.com"), format!("acme:{hash}"));
}
