//! One question to a token server.
//!
//! Not for: when to ask it and who waits (that is `auth`). The answer is opaque, capped, and wiped when dropped.

use std::time::{Duration, SystemTime};

use http::{StatusCode, header};
use reqwest::{Client, Response, Url};
use zeroize::Zeroizing;

use super::error::UpstreamError;
use super::guard::secret_header;
use super::limit;

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
    pub(crate) basic: Option<Zeroizing<String>>,
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
        let mut url = self.realm;
        for (name, value) in [("service", &self.service), ("scope", &self.scope)] {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        let mut request = client
            .get(url)
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::ACCEPT, "application/json");
        if let Some(basic) = self.basic.as_ref().and_then(|basic| secret_header(basic)) {
            request = request.header(header::AUTHORIZATION, basic);
        }
        let response = request
            .send()
            .await
            .map_err(|_| unavailable("its token server cannot be reached"))?;
        match response.status() {
            StatusCode::OK => {}
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(UpstreamError::Denied {
                    registry: registry.to_owned(),
                    status: status.as_u16(),
                });
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let pause = limit::retry_after(response.headers(), SystemTime::now())
                    .unwrap_or(limit::PAUSE_DEFAULT);
                return Err(UpstreamError::Throttled {
                    registry: registry.to_owned(),
                    retry_after: pause,
                });
            }
            status => {
                return Err(unavailable(&format!(
                    "its token server answers HTTP {}",
                    status.as_u16()
                )));
            }
        }
        let body = read_capped(response).await.map_err(&unavailable)?;
        parse(&body).map_err(unavailable)
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
