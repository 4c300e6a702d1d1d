//! What a site wants of its ftp.

use serde::{Deserialize, Serialize};

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident: $type:ty, $zero:expr;)*) => {
        /// Policies and limits of ftp that are not the defaults; of download machines. What each means and what it is without a word is
        /// in the README, in the tables of `ftpd.toml` and `stagerd.toml`.
        #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct FtpRules {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<$type>,)*
        }

        impl FtpRules {
            /// The first rule that would let nobody in.
            pub(super) fn zero(&self) -> Option<&'static str> {
                [$(($zero && self.$name == Some(<$type>::default())).then_some(stringify!($name))),*].into_iter().flatten().next()
            }
        }
    };
}

/// Whether 0 would let nobody in.
const NOBODY: bool = true;
const FINE: bool = false;

rules! {
    /// Nothing in clear.
    require_tls: bool, FINE;
    /// A private data connection resumes the TLS session of its control connection.
    require_data_resumption: bool, FINE;
    /// Sessions in all.
    max_sessions: u32, NOBODY;
    /// Sessions of one address; of one /64 with IPv6.
    max_per_address: u32, NOBODY;
    /// Sessions of one customer, from wherever they come.
    max_sessions_per_customer: u32, NOBODY;
    /// Failed logins after which a session is closed.
    max_failed_logins: u32, NOBODY;
    /// Seconds to the login.
    login_seconds: u32, NOBODY;
    /// Seconds without a command.
    idle_seconds: u32, NOBODY;
    /// Seconds of a session in all.
    session_seconds: u32, NOBODY;
    /// Seconds of a TLS handshake.
    handshake_seconds: u32, NOBODY;
    /// Seconds to a data connection.
    connect_seconds: u32, NOBODY;
    /// Seconds in which a client takes nothing.
    stall_seconds: u32, NOBODY;
    /// Bytes per second of one session; 0 is no bound.
    session_bytes_per_second: u64, FINE;
    /// Bytes per second of all of one customer's transfers; 0 is no bound.
    customer_bytes_per_second: u64, FINE;
}
