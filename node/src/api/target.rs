//! A path taken apart as it came: namespace, type, key, member. A4

use super::Failure;
use super::query::is_well_escaped;
use atoll_client::api::{DataType, ErrorCode, Key, Namespace};
use percent_encoding::percent_decode_str;

/// What a path under `/v1` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) namespace: Namespace,
    pub(super) key: Option<Key>,
    /// A set's member, as text of any length: its rule is checked where it is used.
    pub(super) member: Option<String>,
}

impl Target {
    /// Reads a path that a route of the table matched.
    pub(super) fn parse(path: &str) -> Result<Self, Failure> {
        let mut parts = path.strip_prefix("/v1/").unwrap_or_default().split('/');
        let namespace = Namespace::new(parts.next().unwrap_or_default())?;
        let key = parts.nth(1).map(Key::from_path_segment).transpose()?;
        let member = parts.next().map(member).transpose()?;
        Ok(Self { namespace, key, member })
    }
}

fn member(raw: &str) -> Result<String, Failure> {
    let decoded = percent_decode_str(raw).decode_utf8().ok().filter(|_| is_well_escaped(raw));
    let bad = || Failure::new(ErrorCode::BadPath, "the member is not percent-encoded UTF-8");
    decoded.map(std::borrow::Cow::into_owned).ok_or_else(bad)
}

/// Why a path matches no route.
pub(super) fn no_route(path: &str) -> Failure {
    explain(path).unwrap_or_else(|| Failure::new(ErrorCode::NotFound, "there is nothing at this path"))
}

fn explain(path: &str) -> Option<Failure> {
    let parts: Vec<&str> = path.strip_prefix("/v1/")?.split('/').take(5).collect();
    if let Err(rejection) = Namespace::new(parts.first()?) {
        return Some(rejection.into());
    }
    let kind = *parts.get(1)?;
    if matches!(kind, "_read" | "_watch") && parts.len() == 2 {
        return Some(Failure::new(ErrorCode::NotSupported, format!("{kind} is reserved and not supported yet")));
    }
    if kind.is_empty() || kind.starts_with('_') {
        return None;
    }
    match kind.parse::<DataType>() {
        Err(rejection) => Some(rejection.into()),
        Ok(DataType::Docs) => Some(Failure::new(ErrorCode::NotSupported, "docs are reserved and not supported yet")),
        // A key that is there has a route, unless something follows it.
        Ok(_) => match parts.get(2) {
            Some(&"") => Key::new("").err().map(Failure::from),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_decoded_one_by_one() {
        let target = Target::parse("/v1/shop/sets/a%2Fb%00%25/m%2F%C3%A9").unwrap();
        assert_eq!(target.namespace.as_str(), "shop");
        assert_eq!(target.key.unwrap().as_str(), "a/b\0%");
        assert_eq!(target.member.unwrap(), "m/é");
        assert_eq!(Target::parse("/v1/shop/sets/k/").unwrap().member.unwrap(), "");
        assert_eq!(Target::parse("/v1/shop/_batch").unwrap().key, None);
        assert_eq!(Target::parse("/v1/shop/registers/a+b:@.").unwrap().key.unwrap().as_str(), "a+b:@.");
    }

    #[test]
    fn each_part_fails_with_its_own_code() {
        let code = |path: &str| Target::parse(path).unwrap_err().code;
        assert_eq!(code("/v1/Shop/sets/k"), ErrorCode::BadNamespace);
        assert_eq!(code("/v1/_system/sets/k"), ErrorCode::BadNamespace);
        assert_eq!(code("/v1/shop/sets/%zz"), ErrorCode::BadKey);
        assert_eq!(code("/v1/shop/sets/%ff"), ErrorCode::BadKey);
        assert_eq!(code(&format!("/v1/shop/sets/{}", "k".repeat(1_025))), ErrorCode::BadKey);
        assert_eq!(code("/v1/shop/sets/k/%f"), ErrorCode::BadPath);
        assert_eq!(code("/v1/shop/sets/k/%ff"), ErrorCode::BadPath);
    }

    #[test]
    fn path_without_a_route_says_why() {
        for (path, code) in [
            ("/", ErrorCode::NotFound),
            ("/v2/shop/registers/k", ErrorCode::NotFound),
            ("/v1/shop", ErrorCode::NotFound),
            ("/v1/shop/", ErrorCode::NotFound),
            ("/v1/shop/_nothing", ErrorCode::NotFound),
            ("/v1/shop/registers", ErrorCode::NotFound),
            ("/v1/shop/registers/k/m", ErrorCode::NotFound),
            ("/v1//registers/k", ErrorCode::BadNamespace),
            ("/v1/_system/_nothing", ErrorCode::BadNamespace),
            ("/v1/shop/register/k", ErrorCode::BadType),
            ("/v1/shop/registers/", ErrorCode::BadKey),
            ("/v1/shop/docs/k", ErrorCode::NotSupported),
            ("/v1/shop/docs/k/splice", ErrorCode::NotSupported),
            ("/v1/shop/_watch", ErrorCode::NotSupported),
            ("/v1/shop/_read", ErrorCode::NotSupported),
        ] {
            assert_eq!(no_route(path).code, code, "{path}");
        }
    }
}
