//! Basic authentication and OAuth, alone and together with a signature: all checks of an endpoint must pass.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::harness::{Answer, PATH, Service, configured, event, sign, unsigned};

const PASSWORD: &str = "a password: long";
const SECRET_LINE: &str = "secrets = [{ id = 'first', secret = 'whsec_0123456789abcdef' }]\n";
const BASIC_LINE: &str = "basic = { username = 'river', password = 'a password: long' }\n";
const CLIENTS: &str = "[[endpoints.oauth]]\nclient_id = 'NAME-dr'\nclient_secret = 'client secret, long'\n[[endpoints.oauth]]\nclient_id = 'NAME-sf'\nclient_secret = 'client+secret%long'\nusername = 'river@example.com'\npassword = 'passwordTOKEN'\n";
const OAUTH: &str = "[oauth]\ntoken_keys = ['0123456789abcdef0123456789abcdef']\ntoken_ttl = '10m'\n";

fn endpoint(path: &str, lines: &str) -> String {
    format!("[[endpoints]]\nname = 'NAME'\npath = '{path}'\n{lines}")
}

fn basic(user: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
}

async fn post(service: &Service, path: &str, headers: &str) -> Answer {
    let body = event("e", "order.accepted", "o");
    service.send(&unsigned(path, headers, body.as_bytes())).await
}

fn signature() -> String {
    format!("DigitalRiver-Signature: {}\r\n", sign(event("e", "order.accepted", "o").as_bytes()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signature_and_password_must_both_pass_and_answers_do_not_reveal_which_part_is_wrong() {
    let service = configured(&endpoint(PATH, &format!("{SECRET_LINE}{BASIC_LINE}")), &[]).await;
    let right = basic("river", PASSWORD);
    let answer = post(&service, PATH, &format!("{right}{}", signature())).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let answer = post(&service, PATH, &right).await;
    assert_eq!((answer.status, answer.code()), (401, "invalid_signature"), "{answer:?}");
    let mut bodies = Vec::new();
    for wrong in [
        String::new(),
        basic("river", "another"),
        basic("nobody", PASSWORD),
        basic("", ""),
        right.repeat(2),
        "Authorization: Bearer abc\r\n".to_owned(),
    ] {
        for signed in [signature(), String::new()] {
            let answer = post(&service, PATH, &format!("{wrong}{signed}")).await;
            assert_eq!((answer.status, answer.code()), (401, "invalid_credentials"), "{answer:?}");
            assert!(answer.head.contains("www-authenticate: basic"), "{answer:?}");
            bodies.push(answer.body);
        }
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
}

async fn token(service: &Service, path: &str, headers: &str, form: &[(&str, &str)]) -> Answer {
    let body: String = form.iter().fold(String::new(), |text, (key, value)| {
        let value: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
        format!("{text}&{key}={value}").trim_start_matches('&').to_owned()
    });
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: hooks.example.com\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    service.send(request.as_bytes()).await
}

async fn oauth_service() -> Service {
    let second = "[[endpoints]]\nname = 'NAME-b'\npath = '/b'\n[[endpoints.oauth]]\nclient_id = 'NAME-b'\nclient_secret = 'client secret of b'\n";
    configured(&format!("{OAUTH}{}{second}", endpoint(PATH, CLIENTS)), &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_fetched_in_digital_rivers_way_and_is_valid_at_its_endpoint_only() {
    let service = oauth_service().await;
    let (dr, sf) = (format!("{}-dr", service.endpoint), format!("{}-sf", service.endpoint));
    let password = [
        ("grant_type", "password"),
        ("client_id", sf.as_str()),
        ("client_secret", "client+secret%long"),
        ("username", "river@example.com"),
        ("password", "passwordTOKEN"),
    ];
    let credentials =
        [("grant_type", "client_credentials"), ("client_id", dr.as_str()), ("client_secret", "client secret, long")];
    let default_grant =
        [("grant_type", "password"), ("client_id", dr.as_str()), ("client_secret", "client secret, long")];
    let by_header = [password[0], password[3], password[4], ("scope", "api")];
    for (path, headers, form) in [
        ("/services/oauth2/token", String::new(), &password[..]),
        ("/oauth2/token", String::new(), &credentials),
        ("/oauth2/token/", String::new(), &default_grant),
        ("/oauth2/token", basic(&dr, "client secret, long"), &credentials[..1]),
        ("/oauth2/token", basic(&dr, "client+secret%2C+long"), &credentials[..2]),
        ("/services/oauth2/token", basic(&sf, "client+secret%long"), &by_header),
        ("/services/oauth2/token", basic(&sf, "client%2Bsecret%25long"), &by_header),
        ("/oauth2/token", basic(&dr, "client+secret%2C+long"), &credentials),
        ("/oauth2/token", basic(&dr, "client secret, long"), &credentials),
        ("//oauth2//token", String::new(), &credentials),
    ] {
        let answer = token(&service, path, &headers, form).await;
        assert_eq!(answer.status, 200, "{path} {headers} {answer:?}");
        assert!(answer.head.contains("cache-control: no-store"));
        assert_eq!((&answer.body["token_type"], &answer.body["expires_in"]), (&"Bearer".into(), &600.into()));
        assert_eq!(answer.body["instance_url"], "https://hooks.example.com");
        assert!(answer.body["issued_at"].as_str().unwrap().parse::<i64>().unwrap() > 1_700_000_000_000);
        assert!(answer.body["id"].as_str().unwrap().starts_with("https://hooks.example.com/id/"));
        let bearer = format!("Authorization: Bearer {}\r\n", answer.body["access_token"].as_str().unwrap());
        assert_eq!(post(&service, PATH, &bearer).await.status, 202);
        let elsewhere = post(&service, "/b", &bearer).await;
        assert_eq!((elsewhere.status, elsewhere.code()), (401, "invalid_token"), "{elsewhere:?}");
        assert!(elsewhere.head.contains("www-authenticate: bearer"));
    }
    for wrong in ["", "Authorization: Bearer rl1.1.9999999999.AAAA\r\n", "Authorization: Basic eDp5\r\n"] {
        assert_eq!(post(&service, PATH, wrong).await.code(), "invalid_token");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_token_requests_get_standard_errors_that_do_not_reveal_whether_a_client_exists() {
    let service = oauth_service().await;
    let (dr, sf) = (format!("{}-dr", service.endpoint), format!("{}-sf", service.endpoint));
    let form = |grant: &'static str, id: &str, secret: &'static str| {
        vec![("grant_type", grant), ("client_id", String::leak(id.to_owned()) as &str), ("client_secret", secret)]
    };
    let with = |mut form: Vec<(&'static str, &'static str)>, more: &[(&'static str, &'static str)]| {
        form.extend_from_slice(more);
        form
    };
    let user = |name, password| [("username", name), ("password", password)];
    let mut unknown_client = Vec::new();
    for (form, status, error) in [
        (form("client_credentials", &dr, "wrong"), 401, "invalid_client"),
        (form("client_credentials", "nobody", "wrong"), 401, "invalid_client"),
        (form("client_credentials", "", ""), 401, "invalid_client"),
        (with(form("password", &sf, "wrong"), &user("river@example.com", "passwordTOKEN")), 401, "invalid_client"),
        (form("client_credentials", &sf, "client+secret%long"), 400, "unauthorized_client"),
        (with(form("password", &sf, "client+secret%long"), &user("river@example.com", "wrong")), 400, "invalid_grant"),
        (with(form("password", &sf, "client+secret%long"), &user("wrong", "passwordTOKEN")), 400, "invalid_grant"),
        (form("refresh_token", &dr, "client secret, long"), 400, "unsupported_grant_type"),
        (form("client_credentials", &dr, "client secret, long")[1..].to_vec(), 400, "invalid_request"),
        (
            with(form("client_credentials", &dr, "client secret, long"), &[("client_id", "again")]),
            400,
            "invalid_request",
        ),
    ] {
        let answer = token(&service, "/oauth2/token", "", &form).await;
        assert_eq!((answer.status, answer.body["error"].as_str()), (status, Some(error)), "{form:?} {answer:?}");
        if error == "invalid_client" {
            unknown_client.push((answer.body, answer.head.lines().count()));
        }
    }
    assert!(unknown_client.iter().all(|answer| *answer == unknown_client[0]), "{unknown_client:?}");
    let get = service.send(b"GET /oauth2/token HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(get.status, 405);
    let json = service.send(b"POST /oauth2/token HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}").await;
    assert_eq!((json.status, json.body["error"].as_str()), (400, Some("invalid_request")));

    let mut last = 401;
    for _ in 0..40 {
        let answer = token(&service, "/oauth2/token", "", &form("client_credentials", "nobody", "wrong")).await;
        last = answer.status;
        if last == 429 {
            assert!(answer.head.contains("retry-after"), "{answer:?}");
            break;
        }
    }
    assert_eq!(last, 429, "guesses are limited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_is_read_with_any_usual_media_type_and_ending_but_never_from_the_url() {
    let clients = "[[endpoints.oauth]]\nclient_id = 'NAME+dr%'\nclient_secret = 'client+secret%long'\n";
    let service = configured(&format!("{OAUTH}{}", endpoint(PATH, clients)), &[]).await;
    let (raw, form) = (format!("{}+dr%", service.endpoint), format!("{}%2Bdr%25", service.endpoint));
    let secret = "client%2Bsecret%25long";
    let whole = format!("grant_type=client_credentials&client_id={form}&client_secret={secret}");
    let request_token = async |path: &str, headers: &str, body: &str| {
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        service.send(format!("{head}{headers}\r\n{body}").as_bytes()).await
    };
    let path = "/oauth2/token";
    for (headers, body) in [
        (String::new(), whole.clone()),
        (String::new(), format!("{whole}\n")),
        (String::new(), format!("{whole}\r\n")),
        ("Content-Type: text/plain\r\n".to_owned(), whole.clone()),
        ("Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n".to_owned(), whole.clone()),
        (String::new(), format!("{whole}&grant_type=client_credentials")),
        // Characters that a form encodes: raw and encoded in the header, alone and together with the form.
        (basic(&raw, "client+secret%long"), "grant_type=client_credentials".to_owned()),
        (basic(&form, secret), "grant_type=client_credentials".to_owned()),
        (basic(&raw, "client+secret%long"), whole.clone()),
        (basic(&form, secret), whole.clone()),
    ] {
        let answer = request_token(path, &headers, &body).await;
        assert_eq!(answer.status, 200, "{headers} {body} {answer:?}");
    }
    for (path, headers, body) in [
        (path, "Content-Type: application/json\r\n", "{}"),
        (path, "", "grant_type=client_credentials&grant_type=password"),
        (&format!("{path}?{whole}") as &str, "", ""),
        (&format!("{path}?client_secret=x"), "", &whole),
    ] {
        let answer = request_token(path, headers, body).await;
        assert_eq!((answer.status, answer.body["error"].as_str()), (400, Some("invalid_request")), "{path} {answer:?}");
    }
    let other =
        request_token(path, &basic(&raw, "client+secret%long"), "grant_type=client_credentials&client_id=another")
            .await;
    assert_eq!((other.status, other.body["error"].as_str()), (400, Some("invalid_request")), "{other:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_oauth_there_is_no_token_endpoint() {
    let service = configured(&endpoint(PATH, SECRET_LINE), &[]).await;
    assert_eq!(token(&service, "/oauth2/token", "", &[("grant_type", "password")]).await.status, 404);
}

/// The paths that Digital River's Salesforce app registers, each with a trailing slash.
const SALESFORCE: [&str; 3] = [
    "/services/apexrest/digitalriverv2/DROFIOrderMgmNotification/",
    "/services/apexrest/digitalriverv2/DROrderCompleteNotification/",
    "/services/apexrest/digitalriverv2/webhooks/",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_three_paths_of_the_salesforce_app_work_with_its_token() {
    let endpoints: String = SALESFORCE.iter().enumerate().fold(String::new(), |text, (index, path)| {
        format!("{text}[[endpoints]]\nname = 'NAME-{index}'\npath = '{path}'\n{SECRET_LINE}[[endpoints.oauth]]\nclient_id = 'NAME-{index}'\nclient_secret = 'client secret, long'\n")
    });
    let service = configured(&format!("{OAUTH}{endpoints}"), &[]).await;
    for (index, path) in SALESFORCE.iter().enumerate() {
        let id = format!("{}-{index}", service.endpoint);
        let form = [("grant_type", "password"), ("client_id", id.as_str()), ("client_secret", "client secret, long")];
        let answer = token(&service, "/services/oauth2/token", "", &form).await;
        let bearer =
            format!("Authorization: Bearer {}\r\n{}", answer.body["access_token"].as_str().unwrap(), signature());
        for path in [path, path.trim_end_matches('/')] {
            assert_eq!(post(&service, path, &bearer).await.status, 202, "{path}");
        }
        let other = SALESFORCE[(index + 1) % 3];
        assert_eq!(post(&service, other, &bearer).await.status, 401, "{other}");
    }
}
