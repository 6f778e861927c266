//! What is asked of a contact's and a request's fields. No reason repeats what it is about: reasons are logged.

use schemas::notification::{RequestNotification, SetContact};

use super::{PARAMS_MAX, Rejection, TEXT_BYTES_MAX};
use crate::aggregates::ID_BYTES_MAX;

/// Longest e-mail address, in bytes (RFC 5321: a path of 256 with its brackets), and its longest local part.
const EMAIL_BYTES_MAX: usize = 254;
const LOCAL_BYTES_MAX: usize = 64;

/// Longest language tag that a library must take (RFC 5646).
const LOCALE_BYTES_MAX: usize = 35;

/// Empty texts remove and need no check.
pub(super) fn check_contact(contact: &SetContact) -> Result<(), Rejection> {
    let given = |text: &Option<String>, check: fn(&str) -> bool| {
        let text = text.as_deref().filter(|text| !text.is_empty());
        text.is_none_or(check)
    };
    let wrong = |field, reason| Err(Rejection::Contact { field, reason });
    if !given(&contact.name, is_name) {
        return wrong(
            "name",
            "is longer than 2000 bytes, or holds a control character",
        );
    }
    if !given(&contact.email, is_email) {
        return wrong("email", "is not an e-mail address of ASCII characters");
    }
    if !given(&contact.phone, is_phone) {
        return wrong("phone", "is not an E.164 number: + and 7 to 15 digits");
    }
    if !given(&contact.locale, is_locale) {
        return wrong("locale", "is not a BCP 47 language tag");
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    name.len() <= TEXT_BYTES_MAX && !name.chars().any(char::is_control)
}

/// Stricter than RFC 5321, which takes quotes and what is outside ASCII: whatever passes here means the same to every
/// mail server and needs no escaping in a header.
fn is_email(email: &str) -> bool {
    let Some((local, domain)) = email.rsplit_once('@') else {
        return false;
    };
    let of_local =
        |byte: u8| byte.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&byte);
    let dots = |text: &str| text.split('.').all(|part| !part.is_empty());
    let label = |label: &str| {
        let of_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        label.bytes().all(of_label) && !label.starts_with('-') && !label.ends_with('-')
    };
    email.len() <= EMAIL_BYTES_MAX
        && local.len() <= LOCAL_BYTES_MAX
        && local.bytes().all(of_local)
        && dots(local)
        && dots(domain)
        && domain.split('.').all(label)
}

fn is_phone(phone: &str) -> bool {
    phone.strip_prefix('+').is_some_and(|digits| {
        (7..=15).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && !digits.starts_with('0')
    })
}

fn is_locale(locale: &str) -> bool {
    let subtag = |part: &str| {
        (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    locale.len() <= LOCALE_BYTES_MAX && locale.split('-').all(subtag)
}

pub(super) fn check_request(request: &RequestNotification) -> Result<(), Rejection> {
    let source = &request.source_event_id;
    if source.is_empty() || source.len() > ID_BYTES_MAX || source.chars().any(char::is_control) {
        return Err(Rejection::SourceEventId);
    }
    let too_long = |text: &String| text.len() > TEXT_BYTES_MAX;
    let mut texts = request.params.iter();
    if request.params.len() > PARAMS_MAX
        || texts.any(|(name, text)| too_long(name) || too_long(text))
    {
        return Err(Rejection::Params);
    }
    let mut needed = request.kind.params().iter();
    match needed.find(|param| !request.params.contains_key(**param)) {
        Some(param) => Err(Rejection::MissingParam {
            kind: request.kind,
            param,
            needed: request.kind.params().join(", "),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_means_the_same_to_every_mail_server() {
        let fits = format!("{}@b.c", "a".repeat(64));
        let long_local = format!("{}@b.c", "a".repeat(65));
        let long = format!("a@{}b", "a.".repeat(130));
        for good in [
            "ada@example.org",
            "a.b+c@x-y.example",
            "ada@localhost",
            &fits,
        ] {
            assert!(is_email(good), "{good:?}");
        }
        for bad in [
            "ada",
            "@example.org",
            "ada@",
            "ada@example..org",
            "a b@example.org",
            "ada@example.org\r\nBcc: eve@example.org",
            "<ada@example.org>",
            "ada,eve@example.org",
            "\"ada\"@example.org",
            "ada@-example.org",
            "ädä@example.org",
            &long_local,
            &long,
        ] {
            assert!(!is_email(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_phone_number_can_be_dialled_from_everywhere() {
        assert!(is_phone("+4915112345678"));
        assert!(is_phone("+1234567"));
        for bad in [
            "0151123456",
            "+0151123456",
            "+49 151 12",
            "+123456",
            "+1234567890123456",
        ] {
            assert!(!is_phone(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_one_line_and_a_language_has_a_tag() {
        assert!(is_name("Ada <3"));
        assert!(!is_name("Ada\nBcc: eve@example.org"));
        assert!(!is_name(&"a".repeat(2_001)));
        assert!(is_locale("de-AT"));
        for bad in ["en_GB", "e n", "en-", "abcdefghi"] {
            assert!(!is_locale(bad), "{bad:?}");
        }
    }
}
