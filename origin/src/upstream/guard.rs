//! Which hosts an upstream may lead this origin to.
//!
//! For: every URL before it is asked, and every address a name resolves to, so that neither a redirect nor a token
//! realm nor a name server can point this process at its own host, its link or the private network. Not for: the
//! allow-list of registries (that is the configuration's).
//!
//! Invariant: an address literal never reaches the resolver, so it is checked with the URL; a name always does, so it
//! is checked there. A host that the operator wrote down for a registry is asked wherever it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Url, header::HeaderValue};

/// What one registry may lead to.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Host and port of the registry's own URL, when the operator wrote it.
    trusted: Option<(String, u16)>,
    /// Hosts of the proxies it is asked through: connected to wherever they are, and never asked themselves.
    proxies: Vec<String>,
    /// Whether others may be private.
    private_addresses: bool,
    /// Whether plain HTTP is spoken.
    plain_http: bool,
}

/// Why a URL is not asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GuardError {
    /// Not http or https, no host, or with credentials in it.
    #[error("not a plain http or https address")]
    Malformed,
    /// Unencrypted where it must not be.
    #[error("plain http where https is required")]
    PlainHttp,
    /// Loopback, link-local, private, or otherwise not of the public network.
    #[error("a private address")]
    Private,
}

impl Guard {
    /// Rules for a registry at `base`. A host that the operator wrote down is trusted as it stands; one from the
    /// built-in list is not.
    #[must_use]
    pub fn new(
        base: &Url,
        written_by_operator: bool,
        private_addresses: bool,
        plain_http: bool,
    ) -> Self {
        let trusted = (base.host_str(), base.port_or_known_default());
        Self {
            trusted: match trusted {
                (Some(host), Some(port)) if written_by_operator => {
                    Some((host.to_ascii_lowercase(), port))
                }
                _ => None,
            },
            proxies: Vec::new(),
            private_addresses,
            plain_http,
        }
    }

    /// The same, for a registry that is asked through proxies at these hosts.
    #[must_use]
    pub fn through(mut self, proxies: impl IntoIterator<Item = String>) -> Self {
        self.proxies = proxies
            .into_iter()
            .map(|host| host.to_ascii_lowercase())
            .collect();
        self
    }

    /// Whether `url` may be asked, as far as the URL tells.
    ///
    /// # Errors
    /// Says which rule it breaks.
    pub fn check(&self, url: &Url) -> Result<(), GuardError> {
        match url.scheme() {
            "https" => {}
            "http" if self.plain_http => {}
            "http" => return Err(GuardError::PlainHttp),
            _ => return Err(GuardError::Malformed),
        }
        let host = url
            .host_str()
            .ok_or(GuardError::Malformed)?
            .to_ascii_lowercase();
        if !url.username().is_empty() || url.password().is_some() {
            return Err(GuardError::Malformed);
        }
        if self.private_addresses || self.is_trusted(&host, url.port_or_known_default()) {
            return Ok(());
        }
        if is_local(&host) || self.proxies.contains(&host) {
            Err(GuardError::Private)
        } else {
            Ok(())
        }
    }

    /// A name is trusted on every port, since whoever owns it answers for all; an address on its own port alone.
    fn is_trusted(&self, host: &str, port: Option<u16>) -> bool {
        self.trusted
            .as_ref()
            .is_some_and(|(trusted, on)| trusted == host && (Some(*on) == port || !is_local(host)))
    }

    fn allows(&self, host: &str, ip: IpAddr) -> bool {
        let trusted = self
            .trusted
            .as_ref()
            .is_some_and(|(trusted, _)| trusted == host);
        let proxy = self.proxies.iter().any(|proxy| proxy == host);
        trusted || proxy || self.private_addresses || is_public(ip)
    }
}

/// Whether a host is of this machine or of a private network, as far as its name tells.
#[must_use]
pub fn is_local(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || parse_literal(host).is_some_and(|ip| !is_public(ip))
}

fn parse_literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

/// Whether an address belongs to the public network.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmark = a == 198 && (b == 18 || b == 19);
    !(ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_broadcast()
        || ip.is_multicast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || shared
        || benchmark)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    // Translated addresses are as public as what they translate to.
    if segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        let [.., a, b, c, d] = ip.octets();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    // Only 2000::/3 is given out for the public network; documentation and 6to4 inside it are not.
    segments[0] & 0xe000 == 0x2000
        && segments[0] != 0x2002
        && !(segments[0] == 0x2001 && segments[1] == 0xdb8)
}

/// Resolves names, and drops the addresses that the guard does not allow.
#[derive(Clone, Debug)]
pub(crate) struct GuardedResolver(pub(crate) Arc<Guard>);

/// Told by the resolver, and found again in the error chain of a request.
#[derive(Debug, thiserror::Error)]
#[error("every address of {0} is private")]
pub(crate) struct PrivateName(pub(crate) String);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = Arc::clone(&self.0);
        Box::pin(async move {
            let host = name.as_str().to_ascii_lowercase();
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let some = !found.is_empty();
            let allowed: Vec<SocketAddr> = found
                .into_iter()
                .filter(|addr| guard.allows(&host, addr.ip()))
                .collect();
            if allowed.is_empty() && some {
                return Err(PrivateName(host).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Whether two URLs are of one origin in the sense of the web: what a secret for one may also be sent to.
#[must_use]
pub fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Whether `host` is of the same site as `registry`: itself, or under the same registrable name as far as can be told
/// without a list (two labels, three under a two-letter country with a short second label).
#[must_use]
pub fn same_site(host: &str, registry: &str) -> bool {
    if host.eq_ignore_ascii_case(registry) {
        return true;
    }
    if parse_literal(host).is_some() || parse_literal(registry).is_some() {
        return false;
    }
    match (site_of(host), site_of(registry)) {
        (Some(a), Some(b)) => a.eq_ignore_ascii_case(&b),
        _ => false,
    }
}

fn site_of(host: &str) -> Option<String> {
    let labels: Vec<&str> = host.trim_end_matches('.').split('.').collect();
    let [.., second, top] = labels.as_slice() else {
        return None;
    };
    let take = if top.len() == 2 && second.len() <= 3 {
        3
    } else {
        2
    };
    (labels.len() >= take).then(|| labels[labels.len() - take..].join("."))
}

/// A header value that is never printed.
pub(crate) fn secret_header(value: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(value).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn only_public_addresses_are_public() {
        let private = [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
        ];
        for text in private {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in ["1.1.1.1", "104.18.0.1", "2606:4700::1", "64:ff9b::101:101"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn built_in_registry_leads_to_public_https_only() {
        let guard = Guard::new(&url("https://registry-1.docker.io"), false, false, false);
        let cases = [
            ("https://registry-1.docker.io/v2/", Ok(())),
            ("https://production.cloudflare.docker.com/x?sig=1", Ok(())),
            (
                "http://registry-1.docker.io/v2/",
                Err(GuardError::PlainHttp),
            ),
            ("https://127.0.0.1/", Err(GuardError::Private)),
            ("https://[::1]/", Err(GuardError::Private)),
            (
                "https://169.254.169.254/latest/meta-data",
                Err(GuardError::Private),
            ),
            ("https://localhost/", Err(GuardError::Private)),
            ("https://2130706433/", Err(GuardError::Private)),
            ("https://user:pw@example.com/", Err(GuardError::Malformed)),
            ("ftp://example.com/", Err(GuardError::Malformed)),
        ];
        for (text, expected) in cases {
            assert_eq!(guard.check(&url(text)), expected, "{text}");
        }
    }

    #[test]
    fn operator_may_name_a_private_registry() {
        let local = Guard::new(&url("http://127.0.0.1:5000"), true, false, true);
        assert_eq!(local.check(&url("http://127.0.0.1:5000/v2/")), Ok(()));
        let elsewhere = url("http://127.0.0.1:6000/elsewhere");
        assert_eq!(local.check(&elsewhere), Err(GuardError::Private));
        let open = Guard::new(&url("http://127.0.0.1:5000"), true, true, true);
        assert_eq!(open.check(&elsewhere), Ok(()));
        // A name is trusted itself, and leads to private addresses only when that is said.
        let named = Guard::new(&url("https://harbor.corp.example"), true, false, false);
        assert!(named.allows("harbor.corp.example", "10.0.0.7".parse().unwrap()));
        assert!(!named.allows("cdn.example", "10.0.0.7".parse().unwrap()));
        assert_eq!(
            named.check(&url("https://10.0.0.7/")),
            Err(GuardError::Private)
        );
        let open = Guard::new(&url("https://harbor.corp.example"), true, true, false);
        assert!(open.allows("cdn.example", "10.0.0.7".parse().unwrap()));
    }

    #[test]
    fn proxy_is_connected_to_and_never_asked() {
        let guard = Guard::new(&url("https://quay.io"), false, false, false);
        let guard = guard.through(["Proxy.corp.example".to_owned()]);
        let private = "10.0.0.9".parse().unwrap();
        assert!(guard.allows("proxy.corp.example", private));
        assert!(!guard.allows("other.corp.example", private));
        let itself = url("https://proxy.corp.example/admin");
        assert_eq!(guard.check(&itself), Err(GuardError::Private));
    }

    #[tokio::test]
    async fn name_that_resolves_to_loopback_is_dropped() {
        let guard = Guard::new(&url("https://quay.io"), false, false, false);
        let resolver = GuardedResolver(Arc::new(guard));
        let answer = resolver.resolve("localhost".parse().unwrap()).await;
        assert!(answer.err().is_some_and(|error| error.is::<PrivateName>()));
    }

    #[test]
    fn site_is_the_registrable_name() {
        let cases = [
            ("auth.docker.io", "registry-1.docker.io", true),
            ("gitlab.com", "registry.gitlab.com", true),
            ("evil.io", "registry-1.docker.io", false),
            ("a.co.uk", "b.co.uk", false),
            ("auth.a.co.uk", "b.a.co.uk", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("localhost", "localhost", true),
        ];
        for (host, registry, expected) in cases {
            assert_eq!(same_site(host, registry), expected, "{host} {registry}");
        }
    }
}
