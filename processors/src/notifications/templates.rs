//! What notifications say: the files in `processors/templates`, filled in.
//!
//! A kind has `<kind>.subject.txt`, `<kind>.txt` and `<kind>.html` for an e-mail and `<kind>.sms.txt` for an SMS. They see
//! `name` and `locale` of the recipient, which may be none, and the params of their kind. A variable that does not exist
//! is an error, never an empty place; what is filled into HTML is escaped.

use std::collections::BTreeMap;

use minijinja::{Environment, Error, UndefinedBehavior, Value};
use schemas::notification::NotificationRequested;

/// Longest subject, in characters: params come from people.
const SUBJECT_CHARS_MAX: usize = 200;

/// Longest SMS, in characters: three parts of one in the seven-bit alphabet.
const SMS_CHARS_MAX: usize = 459;

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        /// Every template, by the name of its file.
        const FILES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../templates/", $name)))),+];
    };
}

files![
    "layout.html",
    "welcome.subject.txt",
    "welcome.txt",
    "welcome.html",
    "welcome.sms.txt",
    "order_placed.subject.txt",
    "order_placed.txt",
    "order_placed.html",
    "order_placed.sms.txt",
    "payment_received.subject.txt",
    "payment_received.txt",
    "payment_received.html",
    "payment_received.sms.txt",
    "order_shipped.subject.txt",
    "order_shipped.txt",
    "order_shipped.html",
    "order_shipped.sms.txt",
    "card_added.subject.txt",
    "card_added.txt",
    "card_added.html",
    "card_added.sms.txt",
    "collection_welcome.subject.txt",
    "collection_welcome.txt",
    "collection_welcome.html",
    "collection_welcome.sms.txt",
];

/// What an e-mail says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// One line.
    pub subject: String,
    /// As plain text.
    pub text: String,
    /// The same as HTML.
    pub html: String,
}

/// The templates, ready to be filled in.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
}

impl Default for Templates {
    fn default() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        for (name, source) in FILES {
            environment
                .add_template(name, source)
                .expect("the templates are compiled in, and a test reads each of them");
        }
        Self { environment }
    }
}

impl Templates {
    /// The e-mail about this.
    pub fn mail(&self, requested: &NotificationRequested) -> Result<Mail, Error> {
        let subject = self.render(requested, "subject.txt")?;
        Ok(Mail {
            subject: shortened(&one_line(&subject), SUBJECT_CHARS_MAX),
            text: self.render(requested, "txt")?,
            html: self.render(requested, "html")?,
        })
    }

    /// The SMS about this.
    pub fn sms(&self, requested: &NotificationRequested) -> Result<String, Error> {
        let text = self.render(requested, "sms.txt")?;
        Ok(shortened(text.trim(), SMS_CHARS_MAX))
    }

    fn render(&self, requested: &NotificationRequested, part: &str) -> Result<String, Error> {
        let kind = requested.kind;
        let template = self.environment.get_template(&format!("{kind}.{part}"))?;
        template.render(variables(requested))
    }
}

/// What the templates of this kind see. What may be left out is there as none, so that they can ask for it.
fn variables(requested: &NotificationRequested) -> BTreeMap<&str, Value> {
    let optional = requested.kind.optional_params().iter();
    let mut all: BTreeMap<&str, Value> = optional.map(|name| (*name, Value::from(()))).collect();
    let params = requested.params.iter();
    all.extend(params.map(|(name, text)| (name.as_str(), Value::from(text.as_str()))));
    // Last: no param takes the place of the recipient's own.
    all.insert("name", Value::from(requested.name.as_deref()));
    all.insert("locale", Value::from(requested.locale.as_deref()));
    all
}

/// A header has no second line, whatever a param holds.
fn one_line(text: &str) -> String {
    let words = text.split(|letter: char| letter.is_whitespace() || letter.is_control());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

fn shortened(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(chars_max - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::notification::{Channel, Kind};
    use std::collections::BTreeSet;
    use std::path::Path;

    fn requested(kind: Kind, text: &str) -> NotificationRequested {
        let named = kind.params().iter();
        NotificationRequested {
            notification_id: "n".into(),
            kind,
            source_event_id: "e".into(),
            channel: Channel::Email,
            to: "ada@example.org".into(),
            name: Some(text.to_owned()),
            locale: None,
            params: named
                .map(|name| ((*name).to_owned(), format!("{text} {name}")))
                .collect(),
        }
    }

    #[test]
    fn every_file_is_compiled_in_and_every_kind_has_all_its_parts() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
        let found: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        let compiled: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(found, compiled);
        let parts = |kind: &Kind| {
            ["subject.txt", "txt", "html", "sms.txt"].map(|part| format!("{kind}.{part}"))
        };
        let mut needed: BTreeSet<String> = Kind::ALL.iter().flat_map(parts).collect();
        needed.insert("layout.html".to_owned());
        assert_eq!(compiled, needed);
    }

    #[test]
    fn a_template_uses_no_variable_that_its_kind_does_not_have() {
        let templates = Templates::default();
        for kind in Kind::ALL {
            let own = kind.params().iter().chain(kind.optional_params());
            let mut known: BTreeSet<String> = own.map(|name| (*name).to_owned()).collect();
            known.extend(["name".to_owned(), "locale".to_owned()]);
            for part in ["subject.txt", "txt", "html", "sms.txt"] {
                let name = format!("{kind}.{part}");
                let template = templates.environment.get_template(&name).unwrap();
                let used: BTreeSet<String> =
                    template.undeclared_variables(false).into_iter().collect();
                let unknown: Vec<&String> = used.difference(&known).collect();
                assert!(unknown.is_empty(), "{name} uses {unknown:?}");
            }
            let all: BTreeSet<String> = ["txt", "html"]
                .iter()
                .map(|part| format!("{kind}.{part}"))
                .flat_map(|name| {
                    let template = templates.environment.get_template(&name).unwrap();
                    template.undeclared_variables(false)
                })
                .collect();
            let wasted: Vec<&&str> = kind
                .params()
                .iter()
                .filter(|name| !all.contains(**name))
                .collect();
            assert!(wasted.is_empty(), "nothing of {kind} shows {wasted:?}");
        }
    }

    #[test]
    fn a_variable_that_is_missing_is_an_error_and_not_an_empty_place() {
        let mut requested = requested(Kind::OrderPlaced, "x");
        requested.params.remove("total");
        let error = Templates::default().mail(&requested).unwrap_err();
        assert_eq!(error.kind(), minijinja::ErrorKind::UndefinedError);
    }

    #[test]
    fn what_people_wrote_is_escaped_in_html_and_stays_as_it_is_in_text() {
        let hostile = "<script>alert('&')</script>";
        for kind in Kind::ALL {
            let mail = Templates::default()
                .mail(&requested(*kind, hostile))
                .unwrap();
            assert!(!mail.html.contains("<script"), "{kind}: {}", mail.html);
            assert!(
                mail.html.contains("&lt;script&gt;"),
                "{kind}: {}",
                mail.html
            );
            assert!(mail.text.contains(hostile), "{kind}: {}", mail.text);
        }
    }

    #[test]
    fn no_param_breaks_out_of_the_subject_or_makes_a_link_of_a_script() {
        let mut requested = requested(Kind::CardAdded, "x");
        let mut set = |name: &str, text: &str| {
            requested.params.insert(name.to_owned(), text.to_owned());
        };
        set("card_title", "a\r\nBcc: eve@example.org\u{0}b");
        set("card_url", "javascript:alert(1)");
        set("name", "Mallory");
        let mail = Templates::default().mail(&requested).unwrap();
        assert_eq!(
            mail.subject,
            "x curator_name added a Bcc: eve@example.org b"
        );
        assert!(!mail.html.contains("href"), "{}", mail.html);
        assert!(!mail.text.contains("Mallory"), "{}", mail.text);
        requested
            .params
            .insert("card_url".into(), "https://example.org/?a=1&b=\"2\"".into());
        let mail = Templates::default().mail(&requested).unwrap();
        assert!(
            mail.html
                .contains("href=\"https:&#x2f;&#x2f;example.org&#x2f;?a=1&amp;b=&quot;2&quot;\""),
            "{}",
            mail.html
        );
    }

    #[test]
    fn who_has_no_name_is_greeted_without_one_and_what_is_too_long_is_cut() {
        let mut requested = requested(Kind::OrderShipped, "x");
        requested.name = None;
        let templates = Templates::default();
        let mail = templates.mail(&requested).unwrap();
        assert!(mail.text.starts_with("Hello,\n"), "{}", mail.text);
        assert!(!mail.text.contains("carrier"), "{}", mail.text);
        let code = ("tracking_code".to_owned(), "JD1".to_owned());
        requested.params.extend([code]);
        let mail = templates.mail(&requested).unwrap();
        assert!(mail.text.contains("knows it as JD1"), "{}", mail.text);
        let long = ("order_id".to_owned(), "o".repeat(2_000));
        requested.params.extend([long]);
        let sms = templates.sms(&requested).unwrap();
        assert_eq!(sms.chars().count(), SMS_CHARS_MAX);
        assert!(sms.ends_with('…'), "{sms}");
        let subject = templates.mail(&requested).unwrap().subject;
        assert_eq!(subject.chars().count(), SUBJECT_CHARS_MAX);
    }
}
