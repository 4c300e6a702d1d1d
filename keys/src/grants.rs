//! The key pair that signs grants (PASETO v4.public), as PASERK strings.

use pasetors::keys::{AsymmetricKeyPair, Generate};
use pasetors::paserk::FormatAsPaserk;
use pasetors::version4::V4;
use zeroize::Zeroizing;

/// Both halves: `k4.secret.…` and `k4.public.…`, each with a line end.
pub(crate) struct GrantKeys {
    pub(crate) secret: Zeroizing<String>,
    pub(crate) public: String,
}

pub(crate) fn generate() -> Result<GrantKeys, pasetors::errors::Error> {
    let pair = AsymmetricKeyPair::<V4>::generate()?;
    let (mut secret, mut public) = (Zeroizing::new(String::new()), String::new());
    let failed = |_| pasetors::errors::Error::Key;
    pair.secret.fmt(&mut *secret).map_err(failed)?;
    pair.public.fmt(&mut public).map_err(failed)?;
    secret.push('\n');
    public.push('\n');
    Ok(GrantKeys { secret, public })
}
