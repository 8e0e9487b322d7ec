//! One question to a token server.
//!
//! For: both ways to ask: GET, with Basic where there is a user, which every server understands; and the POST of
//! OAuth2, which changes a refresh token for an access token, with GET where a server does not know it. Not for: when
//! to ask it and who waits (that is `auth`). The answer is opaque, capped, and wiped when dropped.

use std::time::{Duration, SystemTime};

use http::{StatusCode, header};
use reqwest::{Client, RequestBuilder, Response, Url};
use zeroize::Zeroizing;

use super::error::UpstreamError;
use super::guard::secret_header;
use super::keyring::Secret;
use super::limit;

/// As whom this process asks for tokens.
const CLIENT_ID: &str = "shoal-origin";

/// Life of a token whose server tells none.
pub(crate) const TOKEN_LIFE_DEFAULT: Duration = Duration::from_secs(60);
/// Tokens are not kept longer than this, whatever the server says.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(12 * 3600);
/// Largest answer of a token server.
const TOKEN_BYTES_MAX: usize = 256 * 1024;

/// What is asked, and with what right.
pub(crate) struct TokenAsk {
    pub(crate) realm: Url,
    pub(crate) service: Option<String>,
    pub(crate) scope: Option<String>,
    pub(crate) secret: Option<Secret>,
}

impl TokenAsk {
    /// Asks, and answers with the header's value and its life.
    pub(crate) async fn send(
        self,
        client: &Client,
        registry: &str,
    ) -> Result<(Zeroizing<String>, Duration), UpstreamError> {
        let unavailable = |detail: &str| UpstreamError::Unavailable {
            registry: registry.to_owned(),
            detail: detail.to_owned(),
        };
        let unreachable = |_| unavailable("its token server cannot be reached");
        let mut response = None;
        if let Some(request) = self.post(client) {
            let answered = request.send().await.map_err(unreachable)?;
            // Servers without OAuth2 say so in one of these ways, and take the same secret as a password.
            let unknown = matches!(answered.status().as_u16(), 404 | 405 | 501);
            response = (!unknown).then_some(answered);
        }
        let response = match response {
            Some(response) => response,
            None => self.get(client).send().await.map_err(unreachable)?,
        };
        check(response.status(), &response, registry)?;
        let body = read_capped(response).await.map_err(&unavailable)?;
        parse(&body).map_err(unavailable)
    }

    fn get(&self, client: &Client) -> RequestBuilder {
        let mut url = self.realm.clone();
        for (name, value) in [("service", &self.service), ("scope", &self.scope)] {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        let request = plain(client.get(url));
        match self.secret.as_ref().and_then(Secret::basic) {
            Some(basic) => match secret_header(&basic) {
                Some(header) => request.header(header::AUTHORIZATION, header),
                None => request,
            },
            None => request,
        }
    }

    /// The POST that changes a refresh token; none of the other secrets needs one.
    fn post(&self, client: &Client) -> Option<RequestBuilder> {
        let Some(Secret::Identity { token, .. }) = &self.secret else {
            return None;
        };
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token")
            .append_pair("client_id", CLIENT_ID)
            .append_pair("refresh_token", token);
        for (name, value) in [("service", &self.service), ("scope", &self.scope)] {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        let body = form.finish();
        let request = client.post(self.realm.clone()).body(body);
        let form_type = "application/x-www-form-urlencoded";
        Some(plain(request).header(header::CONTENT_TYPE, form_type))
    }
}

fn plain(request: RequestBuilder) -> RequestBuilder {
    request
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::ACCEPT, "application/json")
}

fn check(status: StatusCode, response: &Response, registry: &str) -> Result<(), UpstreamError> {
    let registry = registry.to_owned();
    match status {
        StatusCode::OK => Ok(()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(UpstreamError::Denied {
            registry,
            status: status.as_u16(),
        }),
        StatusCode::TOO_MANY_REQUESTS => {
            let told = limit::retry_after(response.headers(), SystemTime::now());
            Err(UpstreamError::Throttled {
                registry,
                retry_after: told.unwrap_or(limit::PAUSE_DEFAULT),
            })
        }
        status => Err(UpstreamError::Unavailable {
            registry,
            detail: format!("its token server answers HTTP {}", status.as_u16()),
        }),
    }
}

#[derive(serde::Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

async fn read_capped(mut response: Response) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let mut body = Zeroizing::new(Vec::new());
    while let Some(bytes) = response
        .chunk()
        .await
        .map_err(|_| "its token server breaks off")?
    {
        if body.len() + bytes.len() > TOKEN_BYTES_MAX {
            return Err("its token server answers more than 256 KiB");
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

/// The header's value, and its life.
fn parse(body: &[u8]) -> Result<(Zeroizing<String>, Duration), &'static str> {
    let answer: TokenAnswer =
        serde_json::from_slice(body).map_err(|_| "its token server answers no JSON")?;
    let token = answer
        .token
        .or(answer.access_token)
        .filter(|token| !token.is_empty());
    let token = Zeroizing::new(token.ok_or("its token server answers no token")?);
    let life = answer
        .expires_in
        .filter(|life| *life > 0)
        .map_or(TOKEN_LIFE_DEFAULT, Duration::from_secs);
    Ok((
        Zeroizing::new(format!("Bearer {}", token.as_str())),
        life.min(TOKEN_LIFE_MAX),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_in_all_their_forms() {
        let cases = [
            (r#"{"token":"t","expires_in":300}"#, Ok(("Bearer t", 300))),
            (r#"{"access_token":"t"}"#, Ok(("Bearer t", 60))),
            (
                r#"{"token":"t","access_token":"u","expires_in":0}"#,
                Ok(("Bearer t", 60)),
            ),
            (
                r#"{"token":"t","expires_in":99999999}"#,
                Ok(("Bearer t", 12 * 3600)),
            ),
            (r#"{"token":""}"#, Err("its token server answers no token")),
            (r#"{"token":7}"#, Err("its token server answers no JSON")),
            ("", Err("its token server answers no JSON")),
        ];
        for (body, expected) in cases {
            let got = parse(body.as_bytes());
            let got = got
                .as_ref()
                .map(|(value, life)| (value.as_str(), life.as_secs()))
                .map_err(|why| *why);
            assert_eq!(got, expected, "{body}");
        }
    }
}
