//! The library: cards, collections of them, and the profiles that others follow.
//!
//! A card does not know the collections that it is in, nor a collection whether its cards are in anybody's library: no
//! rule spans the two, and readers see only what is in both.

pub mod card;
pub mod collection;
pub mod profile;

use crate::aggregates::ID_BYTES_MAX;

/// Longest name of a collection or a profile, in bytes.
const NAME_BYTES_MAX: usize = 200;

/// Why a field of a command is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Field {
    /// Nothing in it.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// More than is kept.
    #[error("{field} is longer than {bytes_max} bytes")]
    Long {
        /// Which field.
        field: &'static str,
        /// Most that is taken.
        bytes_max: usize,
    },
    /// What no reader can show.
    #[error("{0} holds a control character")]
    Control(&'static str),
    /// Nothing that can be opened.
    #[error("url {0:?} is not an address that begins with http:// or https:// and names a host")]
    Url(String),
    /// Not one word.
    #[error("card_type {0:?} is not a word of a-z, 0-9, - and _")]
    CardType(String),
}

/// An id that stands as a key elsewhere.
fn check_id(field: &'static str, id: &str) -> Result<(), Field> {
    if id.is_empty() {
        return Err(Field::Empty(field));
    }
    check_line(field, id, ID_BYTES_MAX)
}

fn check_name(field: &'static str, name: &str) -> Result<(), Field> {
    if name.trim().is_empty() {
        return Err(Field::Empty(field));
    }
    check_line(field, name, NAME_BYTES_MAX)
}

/// A text of one line, perhaps empty.
fn check_line(field: &'static str, text: &str, bytes_max: usize) -> Result<(), Field> {
    check(field, text, bytes_max, char::is_control)
}

/// A text of any number of lines, perhaps empty.
fn check_lines(field: &'static str, text: &str, bytes_max: usize) -> Result<(), Field> {
    let control = |one: char| one.is_control() && one != '\n' && one != '\t';
    check(field, text, bytes_max, control)
}

fn check(
    field: &'static str,
    text: &str,
    bytes_max: usize,
    refused: impl Fn(char) -> bool,
) -> Result<(), Field> {
    if text.len() > bytes_max {
        return Err(Field::Long { field, bytes_max });
    }
    if text.chars().any(refused) {
        return Err(Field::Control(field));
    }
    Ok(())
}
