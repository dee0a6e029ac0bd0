use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use riverlock_runtime::Secret;

use super::*;

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn config(id: &str, user: Option<(&str, &str)>) -> OAuthClientConfig {
    OAuthClientConfig {
        client_id: id.to_owned(),
        client_secret: Secret::new(format!("secret of {id}")),
        username: user.map(|(name, _)| name.to_owned()),
        password: user.map(|(_, password)| Secret::new(password)),
    }
}

fn oauth(keys: &[&str]) -> OAuthConfig {
    OAuthConfig {
        token_keys: keys.iter().map(|key| Secret::new(*key)).collect(),
        token_ttl: Duration::from_secs(600),
        instance_url: None,
    }
}

fn client(endpoint: &str, id: &str) -> Client {
    Client::new(endpoint, &config(id, None), &oauth(&[KEY]))
}

fn verify(client: &Client, token: &str, now: i64) -> Result<(), BearerError> {
    Client::verify([client].into_iter(), token, at(now))
}

#[test]
fn a_token_is_valid_for_its_lifetime_on_every_instance_with_the_same_key() {
    let token = client("main", "dr").issue(at(1_000)).unwrap();
    let other_instance = client("main", "dr");
    for now in [1_000, 1_599, 940] {
        assert_eq!(verify(&other_instance, &token, now), Ok(()), "{now}");
    }
    for now in [1_600, 1_601, 9_999_999_999] {
        assert_eq!(verify(&other_instance, &token, now), Err(BearerError::Expired), "{now}");
    }
    assert_eq!(verify(&other_instance, &token, 939), Err(BearerError::Invalid), "from the future");
}

#[test]
fn a_token_is_invalid_for_any_other_endpoint_client_secret_user_or_key() {
    let token = client("main", "dr").issue(at(1_000)).unwrap();
    let mut other_secret = config("dr", None);
    other_secret.client_secret = Secret::new("another secret, long enough");
    for other in [
        client("other", "dr"),
        client("main", "other"),
        Client::new("main", &other_secret, &oauth(&[KEY])),
        Client::new("main", &config("dr", Some(("u", "p"))), &oauth(&[KEY])),
        Client::new("main", &config("dr", None), &oauth(&["another key of thirty-two letters"])),
        Client::new("main", &config("dr", None), &oauth(&[])),
    ] {
        assert_eq!(verify(&other, &token, 1_000), Err(BearerError::Invalid));
    }
    assert_eq!(Client::verify(std::iter::empty(), &token, at(1_000)), Err(BearerError::Invalid));
    let both = Client::new("main", &config("dr", None), &oauth(&["another key of thirty-two letters", KEY]));
    assert_eq!(verify(&both, &token, 1_000), Ok(()), "a key that is being replaced is still accepted");
}

#[test]
fn a_shortened_lifetime_applies_to_tokens_already_issued() {
    let token = client("main", "dr").issue(at(1_000)).unwrap();
    let shorter = OAuthConfig { token_ttl: Duration::from_secs(60), ..oauth(&[KEY]) };
    let shorter = Client::new("main", &config("dr", None), &shorter);
    assert_eq!(verify(&shorter, &token, 1_059), Ok(()));
    assert_eq!(verify(&shorter, &token, 1_060), Err(BearerError::Expired));
}

#[test]
fn any_change_invalidates_a_token() {
    let client = client("main", "dr");
    let token = client.issue(at(1_000)).unwrap();
    assert_eq!(verify(&client, &token, 1_000), Ok(()));
    for at in 0..token.len() {
        for bit in 0..7 {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            // The last character of unpadded base64 has unused bits; the decoder rejects them if they are set.
            if let Ok(changed) = String::from_utf8(bytes) {
                assert_eq!(verify(&client, &changed, 1_000), Err(BearerError::Invalid), "{changed}");
            }
        }
        assert_eq!(verify(&client, &token[..at], 1_000), Err(BearerError::Invalid));
    }
    let (signed, mac) = token.rsplit_once('.').unwrap();
    for tricky in [
        String::new(),
        ".".to_owned(),
        format!("{signed}."),
        signed.to_owned(),
        format!("{signed}.{mac}="),
        format!("{token}."),
        format!("{token} "),
        format!("rl1.1000.9999999999.{mac}"),
        format!("rl2.{}", token.strip_prefix("rl1.").unwrap()),
        // A JSON Web Token with the algorithm `none`.
        "eyJhbGciOiJub25lIn0.eyJleHAiOjk5OTk5OTk5OTl9.".to_owned(),
        "x".repeat(1_000_000),
    ] {
        assert_eq!(verify(&client, &tricky, 1_000), Err(BearerError::Invalid), "{}", &tricky[..tricky.len().min(80)]);
    }
}

#[test]
fn a_client_is_found_only_with_all_its_configured_credentials() {
    let (plain, with_user) = (config("plain", None), config("user", Some(("river", "password and token"))));
    let clients = [plain, with_user].map(|config| Client::new("main", &config, &oauth(&[KEY])));
    let find = |id: &str, secrets: &[&str], grant| {
        Client::find(clients.iter(), &[id], secrets, grant).map(|found| found.id.as_str())
    };
    let right = Grant::Password { username: "river", password: "password and token" };
    let wrong = Grant::Password { username: "river", password: "password" };
    let no_user = Grant::Password { username: "", password: "" };
    for (id, secret, grant, expected) in [
        ("plain", "secret of plain", Grant::ClientCredentials, Ok("plain")),
        ("plain", "secret of plain", no_user, Ok("plain")),
        ("plain", "secret of plain", right, Err(GrantError::User)),
        ("user", "secret of user", right, Ok("user")),
        ("user", "secret of user", wrong, Err(GrantError::User)),
        ("user", "secret of user", no_user, Err(GrantError::User)),
        ("user", "secret of user", Grant::ClientCredentials, Err(GrantError::UserMissing)),
        ("user", "secret of plain", right, Err(GrantError::Client)),
        ("user", "", right, Err(GrantError::Client)),
        ("", "", right, Err(GrantError::Client)),
        ("nobody", "secret of user", right, Err(GrantError::Client)),
    ] {
        assert_eq!(find(id, &[secret], grant), expected, "{id} {secret} {grant:?}");
        assert_eq!(find(id, &["x", secret], grant), expected, "any reading of a secret is accepted");
    }
    assert_eq!(find("plain", &[], Grant::ClientCredentials), Err(GrantError::Client));
    let either = Client::find(clients.iter(), &["x", "plain"], &["secret of plain"], Grant::ClientCredentials);
    assert!(either.is_ok_and(|found| found.id == "plain"), "any reading of an id is accepted");
}

#[test]
fn a_rejection_takes_equally_long_for_every_cause() {
    let user = Some(("river", "password and token"));
    let clients: Vec<Client> =
        (0..8).map(|i| Client::new("main", &config(&format!("client {i}"), user), &oauth(&[KEY]))).collect();
    let cases = [
        ("client x", "secret of client 0", "password and token"),
        ("client 0", "secret of client x", "password and token"),
        ("client 7", "secret of client x", "password and token"),
        ("client 0", "secret of client 0", "password and tokens"),
        ("client 7", "secret of client 7", "password and tokens"),
    ];
    let mut shares: [Vec<f64>; 5] = Default::default();
    for _ in 0..500 {
        let took = cases.map(|(id, secret, password)| {
            let started = Instant::now();
            for _ in 0..8 {
                let grant = Grant::Password { username: "river", password };
                assert!(black_box(Client::find(clients.iter(), &[black_box(id)], &[secret], grant)).is_err());
            }
            started.elapsed().as_secs_f64()
        });
        for (shares, took_one) in shares.iter_mut().zip(took) {
            shares.push(took_one / took.iter().sum::<f64>());
        }
    }
    // Shares of a round's time and the median of many rounds, so that neither a change of the processor's speed nor other
    // load matters.
    let median = shares.map(|mut shares| {
        shares.sort_by(f64::total_cmp);
        shares[shares.len() / 2]
    });
    let (fastest, slowest) = (median.into_iter().fold(1.0, f64::min), median.into_iter().fold(0.0, f64::max));
    // An implementation that stopped at the matching client, or before comparing the user, would differ by more.
    assert!(slowest < fastest * 1.05, "{median:?}");
}
