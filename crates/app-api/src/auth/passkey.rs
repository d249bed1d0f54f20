//! The relying party of passkeys (W3C Web Authentication Level 3, §7), by `webauthn_rp`: the options for a browser, and the
//! check of its response.
//!
//! Only discoverable passkeys whose authenticator verified its user are accepted: such a passkey takes the place of the
//! password and of the second factor. Attestation is not requested: the make of an authenticator decides nothing here.

use serde_json::Value;
use uuid::Uuid;
use webauthn_rp::bin::{Decode as _, Encode as _};
use webauthn_rp::request::auth::AuthenticationVerificationOptions;
use webauthn_rp::request::register::{
    CredProtect, Nickname, PublicKeyCredentialUserEntity, RegistrationVerificationOptions,
    UserHandle16, Username,
};
use webauthn_rp::request::{AsciiDomain, BackupReq, PublicKeyCredentialDescriptor, RpId};
use webauthn_rp::response::register::{
    AuthenticatorExtensionOutputStaticState, CompressedPubKey, CredentialProtectionPolicy,
    DynamicState, StaticState,
};
use webauthn_rp::response::{AuthTransports, AuthenticatorAttachment, Backup, CredentialId};
use webauthn_rp::{
    AuthenticatedCredential, DiscoverableAuthentication16, DiscoverableAuthenticationServerState,
    DiscoverableCredentialRequestOptions, PublicKeyCredentialCreationOptions, Registration,
    RegistrationServerState,
};

/// A public key with its algorithm, that owns its bytes.
type PublicKey = CompressedPubKey<[u8; 32], [u8; 32], [u8; 48], Vec<u8>>;

/// The bytes of a user's id, by which an authenticator knows the account.
const USER_HANDLE_BYTES: usize = 16;

/// The reason for which a response is refused.
#[derive(Debug, thiserror::Error)]
pub enum PasskeyError {
    /// The response is no JSON of a credential. The caller may learn it.
    #[error("malformed credential: {0}")]
    Malformed(serde_json::Error),
    #[error("no such challenge waits for this response")]
    Challenge,
    #[error("unknown passkey")]
    Unknown,
    #[error("another request used the passkey at the same time")]
    Overtaken,
    #[error("the credential breaks a rule: {0}")]
    Refused(String),
}

fn broken(rule: impl ToString) -> PasskeyError {
    PasskeyError::Refused(rule.to_string())
}

/// The admin, as authenticators know it.
#[derive(Debug)]
pub struct RelyingParty {
    id: RpId,
    /// Like `http://localhost:3100`.
    origin: String,
}

/// Options for a browser, and what its response must fulfil.
#[derive(Debug)]
pub struct Ceremony {
    /// The options as the W3C's JSON.
    pub options: Value,
    /// The name of the ceremony, which the response repeats.
    pub challenge: Vec<u8>,
    /// The challenge and the rules that `webauthn_rp` checks a response against, in the encoding of `webauthn_rp`.
    pub state: Vec<u8>,
}

/// The person who registers a passkey.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    pub id: Uuid,
    pub email: &'a str,
    pub name: &'a str,
}

/// A new passkey. Both states are as `webauthn_rp` encodes them.
#[derive(Debug)]
pub struct NewCredential {
    pub id: Vec<u8>,
    /// The public key with its algorithm.
    pub static_state: Vec<u8>,
    /// The counter of signatures and the state of backups, which each sign-in may change.
    pub dynamic_state: Vec<u8>,
}

/// A passkey as it was registered.
#[derive(Clone, Copy, Debug)]
pub struct KnownCredential<'a> {
    pub user: Uuid,
    /// See [`NewCredential`].
    pub static_state: &'a [u8],
    /// See [`NewCredential`].
    pub dynamic_state: &'a [u8],
}

/// A browser's response to the options for a new passkey.
#[derive(Debug)]
pub struct RegistrationResponse {
    response: Registration,
    /// See [`Ceremony::challenge`].
    pub challenge: Vec<u8>,
}

impl RegistrationResponse {
    /// # Errors
    /// [`PasskeyError::Malformed`].
    pub fn parse(json: &Value) -> Result<Self, PasskeyError> {
        let bytes = serde_json::to_vec(json).map_err(PasskeyError::Malformed)?;
        let response = Registration::from_json_relaxed(&bytes).map_err(PasskeyError::Malformed)?;
        let challenge = response.challenge_relaxed().map_err(PasskeyError::Malformed)?;
        Ok(Self { response, challenge: challenge.0.to_be_bytes().to_vec() })
    }
}

/// A browser's response to the options for a sign-in.
#[derive(Debug)]
pub struct SignInResponse {
    response: DiscoverableAuthentication16,
    /// See [`Ceremony::challenge`].
    pub challenge: Vec<u8>,
    pub credential_id: Vec<u8>,
}

impl SignInResponse {
    /// # Errors
    /// [`PasskeyError::Malformed`].
    pub fn parse(json: &Value) -> Result<Self, PasskeyError> {
        let bytes = serde_json::to_vec(json).map_err(PasskeyError::Malformed)?;
        let response = DiscoverableAuthentication16::from_json_relaxed(&bytes);
        let response = response.map_err(PasskeyError::Malformed)?;
        let challenge = response.challenge_relaxed().map_err(PasskeyError::Malformed)?;
        let challenge = challenge.0.to_be_bytes().to_vec();
        let credential_id = response.raw_id().as_ref().to_vec();
        Ok(Self { response, challenge, credential_id })
    }
}

impl RelyingParty {
    /// # Errors
    /// When the host is no name of a host.
    pub fn new(host: &str, origin: String) -> anyhow::Result<Self> {
        let id = RpId::Domain(AsciiDomain::try_from(host.to_owned())?);
        Ok(Self { id, origin })
    }

    /// Begins the registration of a passkey. `known`: the ids of the person's passkeys, none of which is registered again.
    ///
    /// # Errors
    /// When the library refuses its own options.
    pub fn begin_registration(
        &self,
        holder: Holder<'_>,
        known: Vec<Vec<u8>>,
    ) -> anyhow::Result<Ceremony> {
        let Ok(handle) = UserHandle16::decode(holder.id.into_bytes());
        let user = PublicKeyCredentialUserEntity {
            // Authenticators show both. The account does not depend on them, so that text outside RFC 8265 or 8266 is left out.
            name: Username::try_from(holder.email).or_else(|_| Username::try_from("account"))?,
            id: &handle,
            display_name: Nickname::try_from(holder.name).ok(),
        };
        let mut exclude = Vec::with_capacity(known.len());
        for id in known {
            let (id, transports) =
                (CredentialId::<Vec<u8>>::decode(id)?, AuthTransports::decode(0)?);
            exclude.push(PublicKeyCredentialDescriptor { id, transports });
        }
        let mut options = PublicKeyCredentialCreationOptions::passkey(&self.id, user, exclude);
        // The server requires verification at each use. No authenticator must enforce it, which some cannot.
        options.extensions.cred_protect = CredProtect::None;
        let (server, client) = options.start_ceremony()?;
        Ok(Ceremony {
            options: serde_json::to_value(&client)?,
            challenge: client.options().challenge.as_data().to_be_bytes().to_vec(),
            state: server.encode()?,
        })
    }

    /// Checks the response to [`Self::begin_registration`].
    ///
    /// # Errors
    /// The first rule that the response breaks.
    pub fn finish_registration(
        &self,
        state: &[u8],
        response: &RegistrationResponse,
    ) -> Result<NewCredential, PasskeyError> {
        let state = RegistrationServerState::<USER_HANDLE_BYTES>::decode(state).map_err(broken)?;
        let origins = [self.origin.as_str()];
        let rules = RegistrationVerificationOptions::<&str, &str> {
            allowed_origins: &origins,
            // A browser may add some, of which none counts.
            error_on_unsolicited_extensions: false,
            ..RegistrationVerificationOptions::default()
        };
        let new = state.verify(&self.id, &response.response, &rules).map_err(broken)?;
        let (Ok(static_state), Ok(dynamic_state)) =
            (new.static_state().encode(), new.dynamic_state().encode());
        Ok(NewCredential {
            id: new.id().as_ref().to_vec(),
            static_state,
            dynamic_state: dynamic_state.to_vec(),
        })
    }

    /// Begins a sign-in. The options name nobody: the browser finds out whose passkeys it has.
    ///
    /// # Errors
    /// When the library refuses its own options.
    pub fn begin_sign_in(&self) -> anyhow::Result<Ceremony> {
        let options = DiscoverableCredentialRequestOptions::passkey(&self.id);
        let (server, client) = options.start_ceremony()?;
        Ok(Ceremony {
            options: serde_json::to_value(&client)?,
            challenge: client.options().0.challenge.as_data().to_be_bytes().to_vec(),
            state: server.encode()?,
        })
    }

    /// Checks the response to [`Self::begin_sign_in`], and returns the new dynamic state of the passkey. An unknown passkey
    /// costs as much as a known one.
    ///
    /// # Errors
    /// The first rule that the response breaks.
    pub fn finish_sign_in(
        &self,
        state: &[u8],
        response: &SignInResponse,
        known: Option<KnownCredential<'_>>,
    ) -> Result<Vec<u8>, PasskeyError> {
        let Some(known) = known else {
            let user = *response.response.response().user_handle();
            let (static_state, dynamic_state) = stand_in();
            let checked =
                self.check_signature(state, response, (&user, static_state, dynamic_state));
            tracing::debug!(is_refused = checked.is_err(), "unknown passkey checked");
            return Err(PasskeyError::Unknown);
        };
        let Ok(user) = UserHandle16::decode(known.user.into_bytes());
        let static_state = StaticState::<PublicKey>::decode(known.static_state).map_err(broken)?;
        let dynamic_state: [u8; 7] = known.dynamic_state.try_into().map_err(broken)?;
        let dynamic_state = DynamicState::decode(dynamic_state).map_err(broken)?;
        self.check_signature(state, response, (&user, static_state, dynamic_state))
    }

    fn check_signature(
        &self,
        state: &[u8],
        response: &SignInResponse,
        (user, static_state, dynamic_state): (&UserHandle16, StaticState<PublicKey>, DynamicState),
    ) -> Result<Vec<u8>, PasskeyError> {
        let state = DiscoverableAuthenticationServerState::decode(state).map_err(broken)?;
        let id = response.response.raw_id();
        let mut credential =
            AuthenticatedCredential::new(id, user, static_state, dynamic_state).map_err(broken)?;
        let origins = [self.origin.as_str()];
        let rules = AuthenticationVerificationOptions::<&str, &str> {
            allowed_origins: &origins,
            // Whether a passkey can have backups never changes (§6.1.3); whether it has one now does.
            backup_requirement: Some(match dynamic_state.backup {
                Backup::NotEligible => BackupReq::NotEligible,
                Backup::Eligible | Backup::Exists => BackupReq::Eligible,
            }),
            error_on_unsolicited_extensions: false,
            ..AuthenticationVerificationOptions::default()
        };
        state.verify(&self.id, &response.response, &mut credential, &rules).map_err(broken)?;
        let Ok(changed) = credential.dynamic_state().encode();
        Ok(changed.to_vec())
    }
}

/// A passkey of nobody, against which the signature of an unknown one is checked. The key is the generator of P-256; even
/// what it signed would be refused.
fn stand_in() -> (StaticState<PublicKey>, DynamicState) {
    const X: [u8; 32] = [
        0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40,
        0xf2, 0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98,
        0xc2, 0x96,
    ];
    let static_state = StaticState {
        credential_public_key: PublicKey::P256((X, true).into()),
        extensions: AuthenticatorExtensionOutputStaticState {
            cred_protect: CredentialProtectionPolicy::None,
            hmac_secret: None,
        },
    };
    let dynamic_state = DynamicState {
        user_verified: true,
        backup: Backup::NotEligible,
        sign_count: 0,
        authenticator_attachment: AuthenticatorAttachment::None,
    };
    (static_state, dynamic_state)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use testkit::authenticator::{Authenticator, USER_PRESENT, USER_VERIFIED};

    use super::*;

    const ORIGIN: &str = "http://localhost:3100";
    const ADA: Holder<'_> =
        Holder { id: Uuid::from_u128(7), email: "ada@example.com", name: "Ada" };

    fn party() -> RelyingParty {
        RelyingParty::new("localhost", ORIGIN.to_owned()).unwrap()
    }

    fn authenticator() -> Authenticator {
        Authenticator::new(ORIGIN).unwrap()
    }

    /// Registers a passkey of Ada.
    fn register(authenticator: &mut Authenticator) -> Result<NewCredential, PasskeyError> {
        let ceremony = party().begin_registration(ADA, Vec::new()).unwrap();
        let created = authenticator.create(&ceremony.options).unwrap();
        let response = RegistrationResponse::parse(&created)?;
        assert_eq!(response.challenge, ceremony.challenge);
        party().finish_registration(&ceremony.state, &response)
    }

    /// Signs in by a passkey that was registered as `known`, and keeps its new state.
    fn sign_in(
        authenticator: &mut Authenticator,
        known: &mut NewCredential,
    ) -> Result<(), PasskeyError> {
        let ceremony = party().begin_sign_in().unwrap();
        let response = SignInResponse::parse(&authenticator.get(&ceremony.options).unwrap())?;
        assert_eq!(response.challenge, ceremony.challenge);
        known.dynamic_state =
            party().finish_sign_in(&ceremony.state, &response, Some(of_ada(known)))?;
        Ok(())
    }

    fn of_ada(known: &NewCredential) -> KnownCredential<'_> {
        KnownCredential {
            user: ADA.id,
            static_state: &known.static_state,
            dynamic_state: &known.dynamic_state,
        }
    }

    fn reason<T: std::fmt::Debug>(result: Result<T, PasskeyError>) -> String {
        result.unwrap_err().to_string()
    }

    /// A change of the browser or the authenticator, for which a response is refused.
    type Fault = fn(&mut Authenticator);
    const FAULTS: [(&str, Fault); 7] = [
        ("a page of a tenant", |a| a.origin = "http://acme.localhost:3100".to_owned()),
        ("another scheme", |a| a.origin = "https://localhost:3100".to_owned()),
        ("another port", |a| a.origin = "http://localhost:9999".to_owned()),
        ("another relying party", |a| a.relying_party = Some("evil.example".to_owned())),
        ("the user was not verified", |a| a.flags = USER_PRESENT),
        ("the user was not present", |a| a.flags = USER_VERIFIED),
        ("another ceremony", |a| a.ceremony = Some("webauthn.payment")),
    ];

    #[test]
    fn a_registered_passkey_signs_in_again_and_again() {
        let mut authenticator = authenticator();
        let mut known = register(&mut authenticator).unwrap();
        assert_eq!(known.id, authenticator.credential_id);
        for _ in 0..3 {
            sign_in(&mut authenticator, &mut known).unwrap();
        }
        // A copy of the key, whose counter is behind.
        authenticator.count = 1;
        let behind = reason(sign_in(&mut authenticator, &mut known));
        assert!(behind.contains("counter"), "{behind}");
    }

    #[test]
    fn an_authenticator_that_does_not_count_signs_in() {
        let mut authenticator = authenticator();
        authenticator.step = 0;
        let mut known = register(&mut authenticator).unwrap();
        for _ in 0..2 {
            sign_in(&mut authenticator, &mut known).unwrap();
        }
        // An authenticator that has begun to count must not fall back to 0.
        authenticator.step = 1;
        sign_in(&mut authenticator, &mut known).unwrap();
        authenticator.count = 0;
        assert!(sign_in(&mut authenticator, &mut known).is_err());
    }

    #[test]
    fn a_passkey_may_gain_and_lose_its_backup_but_not_the_ability() {
        const ELIGIBLE: u8 = 1 << 3;
        const EXISTS: u8 = 1 << 4;
        let mut authenticator = authenticator();
        authenticator.flags |= ELIGIBLE;
        let mut known = register(&mut authenticator).unwrap();
        for flag in [EXISTS, EXISTS] {
            authenticator.flags ^= flag;
            sign_in(&mut authenticator, &mut known).unwrap();
        }
        authenticator.flags ^= ELIGIBLE;
        assert!(sign_in(&mut authenticator, &mut known).is_err());
    }

    #[test]
    fn every_fault_of_a_registration_is_refused() {
        for (fault, change) in FAULTS {
            let mut authenticator = authenticator();
            change(&mut authenticator);
            assert!(register(&mut authenticator).is_err(), "{fault}");
        }
    }

    #[test]
    fn every_fault_of_a_sign_in_is_refused() {
        for (fault, change) in FAULTS {
            let mut authenticator = authenticator();
            let mut known = register(&mut authenticator).unwrap();
            change(&mut authenticator);
            assert!(sign_in(&mut authenticator, &mut known).is_err(), "{fault}");
        }
    }

    #[test]
    fn a_response_to_another_challenge_is_refused() {
        let (first, second) = (party().begin_registration(ADA, Vec::new()).unwrap(), party());
        let second = second.begin_registration(ADA, Vec::new()).unwrap();
        assert_ne!(first.challenge, second.challenge);
        let mut authenticator = authenticator();
        let created = authenticator.create(&first.options).unwrap();
        let response = RegistrationResponse::parse(&created).unwrap();
        assert!(party().finish_registration(&second.state, &response).is_err());
        let known = party().finish_registration(&first.state, &response).unwrap();

        let (first, second) = (party().begin_sign_in().unwrap(), party().begin_sign_in().unwrap());
        let response = SignInResponse::parse(&authenticator.get(&first.options).unwrap()).unwrap();
        let of_ada = Some(of_ada(&known));
        assert!(party().finish_sign_in(&second.state, &response, of_ada).is_err());
        party().finish_sign_in(&first.state, &response, of_ada).unwrap();
    }

    #[test]
    fn the_key_and_the_person_must_be_those_that_registered() {
        let mut own = authenticator();
        let mut known = register(&mut own).unwrap();
        let mut forged = authenticator();
        forged.credential_id.clone_from(&own.credential_id);
        forged.user_handle.clone_from(&own.user_handle);
        let refused = reason(sign_in(&mut forged, &mut known));
        assert!(refused.contains("signature"), "{refused}");
        own.user_handle = "AAAAAAAAAAAAAAAAAAAAAA".to_owned();
        let refused = reason(sign_in(&mut own, &mut known));
        assert!(refused.contains("user handle"), "{refused}");
    }

    #[test]
    fn an_unknown_passkey_signs_nobody_in() {
        let mut authenticator = authenticator();
        register(&mut authenticator).unwrap();
        let ceremony = party().begin_sign_in().unwrap();
        let got = authenticator.get(&ceremony.options).unwrap();
        let response = SignInResponse::parse(&got).unwrap();
        let refused = party().finish_sign_in(&ceremony.state, &response, None);
        assert!(matches!(refused, Err(PasskeyError::Unknown)), "{refused:?}");
        // The stand-in is a key that a signature can be checked against: nothing fails earlier.
        let (static_state, dynamic_state) = stand_in();
        let user = *response.response.response().user_handle();
        let checked = party().check_signature(
            &ceremony.state,
            &response,
            (&user, static_state, dynamic_state),
        );
        let refused = reason(checked);
        assert!(refused.contains("signature"), "{refused}");
    }

    #[test]
    fn json_that_is_no_credential_is_malformed() {
        let mut authenticator = authenticator();
        let options = party().begin_registration(ADA, Vec::new()).unwrap().options;
        let created = authenticator.create(&options).unwrap();
        let options = party().begin_sign_in().unwrap().options;
        let got = authenticator.get(&options).unwrap();
        let without = |credential: &Value, part: &str| {
            let mut credential = credential.clone();
            credential["response"].as_object_mut().unwrap().remove(part).unwrap();
            credential
        };
        let creations = ["clientDataJSON", "attestationObject"].map(|part| without(&created, part));
        let signatures = ["clientDataJSON", "authenticatorData", "signature", "userHandle"];
        let signatures = signatures.map(|part| without(&got, part));
        for json in [Value::Null, json!({}), json!([]), json!("x"), json!({ "response": 7 })] {
            assert!(is_malformed(RegistrationResponse::parse(&json)), "{json}");
            assert!(is_malformed(SignInResponse::parse(&json)), "{json}");
        }
        for json in creations.into_iter().chain([got]) {
            assert!(is_malformed(RegistrationResponse::parse(&json)), "{json}");
        }
        for json in signatures.into_iter().chain([created]) {
            assert!(is_malformed(SignInResponse::parse(&json)), "{json}");
        }
    }

    fn is_malformed<T>(parsed: Result<T, PasskeyError>) -> bool {
        matches!(parsed, Err(PasskeyError::Malformed(_)))
    }

    #[test]
    fn the_options_ask_for_a_verified_user_and_name_what_is_known() {
        let known = vec![vec![9; 16]];
        let options = party().begin_registration(ADA, known).unwrap().options;
        assert_eq!(options["rp"]["id"], "localhost");
        assert_eq!(options["user"]["name"], "ada@example.com");
        assert_eq!(options["user"]["displayName"], "Ada");
        assert_eq!(options["authenticatorSelection"]["userVerification"], "required");
        assert_eq!(options["authenticatorSelection"]["residentKey"], "required");
        assert_eq!(options["attestation"], "none");
        assert_eq!(options["excludeCredentials"][0]["id"], "CQkJCQkJCQkJCQkJCQkJCQ");
        let algorithms = options["pubKeyCredParams"].as_array().unwrap();
        assert!(algorithms.iter().any(|algorithm| algorithm["alg"] == -7), "ES256: {options}");

        let options = party().begin_sign_in().unwrap().options;
        assert_eq!(options["userVerification"], "required");
        assert_eq!(options["rpId"], "localhost");
        assert_eq!(options["allowCredentials"], json!([]));
    }

    #[test]
    fn people_register_whatever_their_address_and_name() {
        for (email, name) in [
            ("ü@müller.de", "Jürgen Müller"),
            ("o'x+y@z.example", "👩\u{200d}🚀"),
            ("ada@example.com", "\u{e000}"),
            ("x@ﬁ.example", "Ada\u{a0}Lovelace"),
        ] {
            let holder = Holder { email, name, ..ADA };
            let begun = party().begin_registration(holder, Vec::new());
            assert!(begun.is_ok(), "{email} {name}: {begun:?}");
        }
    }
}
