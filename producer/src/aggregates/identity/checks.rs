//! What is asked of the fields of this domain, whatever they belong to.

use crate::aggregates::ID_BYTES_MAX;

/// Longest id of a tenant, in bytes: with it begin the ids of the tenant's addresses, which are keys too.
pub(super) const TENANT_ID_BYTES_MAX: usize = 128;

/// Longest name, reason or other line for people, in bytes.
const LINE_BYTES_MAX: usize = 300;

/// A field that cannot be what it is. Its value is not in the text: it may be somebody's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadField {
    /// Nothing in it.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// More than is handled.
    #[error("{field} is longer than {max} bytes")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// The limit.
        max: usize,
    },
    /// What would break a line or a key.
    #[error("{0} holds a control character")]
    Control(&'static str),
    /// Something else than it is for.
    #[error("{field} is not {expected}")]
    NotA {
        /// Which field.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
}

/// An id that the caller chose, and that is a key elsewhere.
pub(super) fn check_id(field: &'static str, id: &str) -> Result<(), BadField> {
    check_text(field, id, ID_BYTES_MAX)
}

/// A tenant's id.
pub(super) fn check_tenant_id(id: &str) -> Result<(), BadField> {
    check_text("tenant_id", id, TENANT_ID_BYTES_MAX)
}

/// A name or a reason: one line for people.
pub(super) fn check_line(field: &'static str, line: &str) -> Result<(), BadField> {
    check_text(field, line, LINE_BYTES_MAX)
}

/// A line that may be empty.
fn check_line_or_nothing(field: &'static str, line: &str) -> Result<(), BadField> {
    match line {
        "" => Ok(()),
        line => check_line(field, line),
    }
}

fn check_text(field: &'static str, text: &str, max: usize) -> Result<(), BadField> {
    if text.trim().is_empty() {
        return Err(BadField::Empty(field));
    }
    if text.len() > max {
        return Err(BadField::TooLong { field, max });
    }
    if text.chars().any(char::is_control) {
        return Err(BadField::Control(field));
    }
    Ok(())
}

/// A normalized address. ASCII only: what lies beyond has several normal forms, and with two of them one mailbox would be
/// two users. A domain with other letters has its ASCII form (`xn--…`).
pub(super) fn check_email(email: &str) -> Result<(), BadField> {
    let expected = "an address such as ada@example.com, in ASCII";
    let field = "email";
    check_text(field, email, 254)?;
    match email.split_once('@') {
        Some((local, domain)) if is_local(local) && is_domain(domain) => Ok(()),
        _ => Err(BadField::NotA { field, expected }),
    }
}

fn is_local(local: &str) -> bool {
    let may = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~-.".contains(&byte);
    local.len() <= 64 && local.bytes().all(may) && local.split('.').all(|part| !part.is_empty())
}

fn is_domain(domain: &str) -> bool {
    domain.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

fn check_phone(phone: Option<&str>) -> Result<(), BadField> {
    let good = phone.is_none_or(|phone| {
        phone.strip_prefix('+').is_some_and(|digits| {
            (7..=15).contains(&digits.len())
                && digits.bytes().all(|byte| byte.is_ascii_digit())
                && !digits.starts_with('0')
        })
    });
    must(good, "phone", "an E.164 number such as +4930123456")
}

/// Of a form that a time zone can have; whether there is such a zone is known where it is used.
fn check_timezone(timezone: Option<&str>) -> Result<(), BadField> {
    let may = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte);
    let good = timezone.is_none_or(|zone| {
        zone.len() <= 64
            && zone
                .split('/')
                .all(|part| !part.is_empty() && part.bytes().all(may))
    });
    must(good, "timezone", "an IANA name such as Europe/Berlin")
}

/// Of the form of a language tag.
fn check_language(language: Option<&str>) -> Result<(), BadField> {
    let good = language.is_none_or(|tag| {
        let mut parts = tag.split('-');
        let first = parts.next().unwrap_or_default();
        tag.len() <= 35
            && (2..=8).contains(&first.len())
            && first.bytes().all(|byte| byte.is_ascii_alphabetic())
            && parts.all(|part| {
                (1..=8).contains(&part.len())
                    && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
            })
    });
    must(good, "language", "a BCP 47 tag such as de-AT")
}

/// A picture that any page may show.
pub(super) fn check_avatar_url(url: Option<&str>) -> Result<(), BadField> {
    let good = url.is_none_or(|url| {
        url.len() <= 2000
            && url
                .strip_prefix("https://")
                .is_some_and(|rest| !rest.is_empty())
            && url.bytes().all(|byte| byte.is_ascii_graphic())
    });
    must(good, "avatar_url", "an https URL of at most 2000 bytes")
}

/// What a person says when they register.
pub(super) struct Person<'p> {
    pub(super) first_name: &'p str,
    pub(super) last_name: &'p str,
    pub(super) phone: Option<&'p str>,
    pub(super) timezone: Option<&'p str>,
    pub(super) language: Option<&'p str>,
}

impl Person<'_> {
    pub(super) fn check(&self) -> Result<(), BadField> {
        check_line("first_name", self.first_name)?;
        check_line_or_nothing("last_name", self.last_name)?;
        check_phone(self.phone)?;
        check_timezone(self.timezone)?;
        check_language(self.language)
    }
}

fn must(good: bool, field: &'static str, expected: &'static str) -> Result<(), BadField> {
    match good {
        true => Ok(()),
        false => Err(BadField::NotA { field, expected }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_at_and_a_domain() {
        for good in [
            "ada@example.com",
            "a@localhost",
            "ada.l+test@mail.example.co.uk",
            "o'neill@xn--bcher-kva.example",
        ] {
            assert_eq!(check_email(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "ada",
            "@example.com",
            "ada@",
            "a@b@c",
            ".ada@example.com",
            "a..b@example.com",
            "ada@-example.com",
            "ada@example..com",
            "ada lovelace@example.com",
            "adá@example.com",
            "ada\n@example.com",
        ] {
            assert!(check_email(bad).is_err(), "{bad:?}");
        }
        assert!(check_email(&format!("{}@example.com", "a".repeat(65))).is_err());
        assert!(check_email(&format!("ada@{}com", "example.".repeat(40))).is_err());
    }

    #[test]
    fn what_may_be_missing_has_a_form_where_it_is_there() {
        assert_eq!(check_phone(None), Ok(()));
        assert_eq!(check_phone(Some("+4930123456")), Ok(()));
        for bad in ["", "030123456", "+0301234567", "+49 30 123456", "+49"] {
            assert!(check_phone(Some(bad)).is_err(), "{bad:?}");
        }
        assert_eq!(
            check_timezone(Some("America/Argentina/Buenos_Aires")),
            Ok(())
        );
        assert!(check_timezone(Some("Europe/")).is_err());
        assert_eq!(check_language(Some("de-AT")), Ok(()));
        assert!(check_language(Some("german language")).is_err());
        assert_eq!(check_avatar_url(Some("https://example.com/a.png")), Ok(()));
        assert!(check_avatar_url(Some("javascript:alert(1)")).is_err());
    }

    #[test]
    fn a_text_that_can_be_no_key_is_no_id() {
        assert_eq!(check_id("user_id", "u-1"), Ok(()));
        assert_eq!(check_id("user_id", " "), Err(BadField::Empty("user_id")));
        assert_eq!(
            check_id("user_id", "u\0"),
            Err(BadField::Control("user_id"))
        );
        assert!(check_id("user_id", &"u".repeat(ID_BYTES_MAX)).is_ok());
        assert!(check_id("user_id", &"u".repeat(ID_BYTES_MAX + 1)).is_err());
    }
}
