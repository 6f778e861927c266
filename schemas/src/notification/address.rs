//! Where a notification goes, and how that is shown.

use super::text_enum;

text_enum! {
    /// By what a notification goes out.
    pub enum Channel as "channel" {
        /// To an e-mail address.
        Email = "email",
        /// To a phone number.
        Sms = "sms",
    }
}

/// An address or a phone number as logs and views show it: enough to recognise it, too little to write to it.
pub fn masked(channel: Channel, to: &str) -> String {
    match channel {
        Channel::Email => {
            let (local, domain) = to.rsplit_once('@').unwrap_or((to, ""));
            let first: String = local.chars().take(1).collect();
            format!("{first}***@{domain}")
        }
        Channel::Sms => {
            let count = to.chars().count();
            // Country code and the last two digits; all of a short one is hidden.
            let (head, tail) = if count >= 8 { (3, 2) } else { (0, 0) };
            let first: String = to.chars().take(head).collect();
            let last: String = to.chars().skip(count - tail).collect();
            format!("{first}***{last}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_address_shows_the_first_letter_and_the_domain() {
        let email = |to| masked(Channel::Email, to);
        assert_eq!(email("ada@example.org"), "a***@example.org");
        assert_eq!(email("émile@example.org"), "é***@example.org");
        assert_eq!(email("a@b@example.org"), "a***@example.org");
    }

    #[test]
    fn a_masked_number_shows_its_country_and_its_last_two_digits() {
        let sms = |to| masked(Channel::Sms, to);
        assert_eq!(sms("+4915112345678"), "+49***78");
        assert_eq!(sms("+491"), "***");
    }
}
