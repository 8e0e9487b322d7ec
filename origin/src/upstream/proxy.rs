//! Proxies between this origin and the world: those of the environment, and those of one registry.
//!
//! For: which proxy a URL is asked through, decided once for each client. Not for: speaking to a proxy (that is the
//! HTTP client's). Only `http://` and `https://` proxies are known.
//!
//! Invariant: a user and password in a proxy's URL are never printed.

use reqwest::{NoProxy, Proxy, Url};

/// The proxies of the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, in small letters too.
#[derive(Clone, Default)]
pub struct EnvProxies {
    http: Option<Url>,
    https: Option<Url>,
    no_proxy: String,
}

/// Through what a registry is asked.
#[derive(Clone, Default)]
pub enum ProxyChoice {
    /// As the environment says; a registry with a private address, or without TLS, directly.
    #[default]
    Environment,
    /// Directly, whatever the environment says.
    Direct,
    /// Through this one.
    Through {
        /// Where it is.
        proxy: Url,
        /// Hosts, domains and networks that are reached directly all the same.
        except: Vec<String>,
    },
}

impl std::fmt::Debug for EnvProxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnvProxies")
            .field("http", &self.http.as_ref().map(host_of))
            .field("https", &self.https.as_ref().map(host_of))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

impl std::fmt::Debug for ProxyChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Environment => f.write_str("Environment"),
            Self::Direct => f.write_str("Direct"),
            Self::Through { proxy, except } => f
                .debug_struct("Through")
                .field("proxy", &host_of(proxy))
                .field("except", except)
                .finish(),
        }
    }
}

impl EnvProxies {
    /// Reads them. What cannot be used is passed over with a warning.
    pub fn from_environment(variables: impl Iterator<Item = (String, String)>) -> Self {
        let mut found = Self::default();
        let mut all = None;
        for (name, value) in variables {
            match name.to_ascii_lowercase().as_str() {
                "no_proxy" => found.no_proxy = value,
                "http_proxy" => found.http = read(&name, &value),
                "https_proxy" => found.https = read(&name, &value),
                "all_proxy" => all = read(&name, &value),
                _ => {}
            }
        }
        found.http = found.http.or_else(|| all.clone());
        found.https = found.https.or(all);
        found
    }
}

impl ProxyChoice {
    /// The rules for an HTTP client, and the hosts of the proxies in them. `near`: the registry is of one's own network.
    pub(crate) fn rules(
        &self,
        environment: &EnvProxies,
        near: bool,
    ) -> Result<(Vec<Proxy>, Vec<String>), String> {
        let wrong = |_| "its proxy cannot be used".to_owned();
        match self {
            Self::Direct => Ok((Vec::new(), Vec::new())),
            Self::Environment if near || excepts_all(&environment.no_proxy) => {
                Ok((Vec::new(), Vec::new()))
            }
            Self::Through { except, .. } if excepts_all(&except.join(",")) => {
                Ok((Vec::new(), Vec::new()))
            }
            Self::Environment => {
                let except = || NoProxy::from_string(&environment.no_proxy);
                let mut rules = Vec::new();
                if let Some(proxy) = &environment.https {
                    rules.push(
                        Proxy::https(proxy.clone())
                            .map_err(wrong)?
                            .no_proxy(except()),
                    );
                }
                if let Some(proxy) = &environment.http {
                    rules.push(
                        Proxy::http(proxy.clone())
                            .map_err(wrong)?
                            .no_proxy(except()),
                    );
                }
                let proxies = environment.https.iter().chain(&environment.http);
                Ok((rules, proxies.map(host_of).collect()))
            }
            Self::Through { proxy, except } => {
                let except = NoProxy::from_string(&except.join(","));
                let rule = Proxy::all(proxy.clone()).map_err(wrong)?.no_proxy(except);
                Ok((vec![rule], vec![host_of(proxy)]))
            }
        }
    }
}

/// The one entry that stands for every host, addresses too.
fn excepts_all(no_proxy: &str) -> bool {
    no_proxy.split(',').any(|entry| entry.trim() == "*")
}

/// A proxy's URL; a bare `host:port` is one that speaks HTTP.
pub(crate) fn parse_proxy(text: &str) -> Option<Url> {
    let whole = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let url = Url::parse(&whole).ok()?;
    let plain = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && plain).then_some(url)
}

fn read(name: &str, value: &str) -> Option<Url> {
    if value.trim().is_empty() {
        return None;
    }
    let url = parse_proxy(value.trim());
    if url.is_none() {
        tracing::warn!(
            variable = name,
            "not the address of an http or https proxy; it is not used"
        );
    }
    url
}

fn host_of(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> EnvProxies {
        let owned = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        EnvProxies::from_environment(owned)
    }

    #[test]
    fn proxies_of_the_environment_are_read_in_all_their_forms() {
        let shown = |variables: &[(&str, &str)]| format!("{:?}", environment(variables));
        let none = r#"EnvProxies { http: None, https: None, no_proxy: "" }"#;
        assert_eq!(shown(&[("PATH", "/bin"), ("HTTPS_PROXY", "")]), none);
        assert_eq!(shown(&[("HTTPS_PROXY", "socks5://p:1")]), none);
        assert_eq!(shown(&[("HTTPS_PROXY", "http://p/path")]), none);
        assert_eq!(
            shown(&[
                ("all_proxy", "p:3128"),
                ("HTTPS_PROXY", "https://user:canary@q"),
                ("no_proxy", "a,b")
            ]),
            r#"EnvProxies { http: Some("p"), https: Some("q"), no_proxy: "a,b" }"#
        );
    }

    #[test]
    fn what_is_near_is_reached_directly_unless_a_proxy_is_named_for_it() {
        let environment = environment(&[("HTTPS_PROXY", "p:3128")]);
        let hosts = |choice: &ProxyChoice, near| choice.rules(&environment, near).unwrap().1;
        assert_eq!(hosts(&ProxyChoice::Environment, false), ["p"]);
        assert!(hosts(&ProxyChoice::Environment, true).is_empty());
        assert!(hosts(&ProxyChoice::Direct, false).is_empty());
        let through = ProxyChoice::Through {
            proxy: parse_proxy("http://user:canary@own:1").unwrap(),
            except: vec!["x".into()],
        };
        assert_eq!(hosts(&through, true), ["own"]);
        assert!(!format!("{through:?}").contains("canary"));
    }
}
