//! The rules of the schema, each with the words for those who break it. Both the API server and the mirror use these.

/// A rule of the schema: the condition in CEL, and what is said when it does not hold.
#[derive(Clone, Copy, Debug)]
pub struct RuleText {
    pub cel: &'static str,
    pub message: &'static str,
}

const fn rule(cel: &'static str, message: &'static str) -> RuleText {
    RuleText { cel, message }
}

/// Of the object.
pub const NAME_LENGTH: RuleText =
    rule("self.metadata.name.size() <= 40", "metadata.name must have at most 40 characters, so that names made from it fit");
pub const NAME_FORM: RuleText = rule(
    "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "metadata.name must be a DNS-1035 label: lower-case letters, digits and '-', starting with a letter and not ending with '-'",
);
pub const NAME_SUFFIX: RuleText = rule(
    "!self.metadata.name.endsWith('-nodes')",
    "metadata.name must not end with '-nodes', which names the Service of a cluster's nodes",
);

/// Of an annotation, at which the schema cannot look: the operator alone checks it.
pub const ACCEPT_LOSS: RuleText = rule(
    "true",
    "distributedcounter.dev/accept-loss must list names of this cluster's nodes, such as NAME-0-1, separated by commas",
);

/// Of `spec`.
pub const MEMORY_REPLICAS: RuleText = rule(
    "!has(self.storage) || !has(self.storage.memory) || self.replicas >= 2",
    "storage.memory needs replicas of at least 2, because it promises nothing beyond its replicas",
);
pub const SHARDS: RuleText = rule("self >= 1 && self <= 256", "shards must be between 1 and 256");
pub const REPLICAS: RuleText = rule("self >= 1 && self <= 7", "replicas must be between 1 and 7");
pub const CONSISTENCY: RuleText = rule("self == oldSelf", "consistency is immutable");
pub const IMAGE: RuleText = rule("self.size() > 0", "image must not be empty: leave it out for the operator's default");

/// Of `spec.virtualShards`.
pub const SPREAD_PAGES: RuleText = rule(
    "self.all(own, own.pages.size() > 0 && bytes(own.pages).size() <= 512)",
    "the pages of virtual shards must be a pattern of 1 to 512 bytes",
);
pub const SPREAD_COUNT: RuleText =
    rule("self.all(own, own.count >= 1 && own.count <= 256)", "the count of virtual shards must be between 1 and 256");
pub const SPREAD_ONCE: RuleText =
    rule("self.all(own, self.exists_one(other, other.pages == own.pages))", "virtual shards must not name the same pages twice");

/// Of `spec.tokens`.
pub const TOKEN_WINDOW: RuleText = rule("self >= 1 && self <= 86400", "windowSeconds must be between 1 and 86400");
pub const TOKENS: RuleText = rule("self >= 1 && self <= 100000000", "max must be between 1 and 100000000");

/// Of `spec.presence`.
pub const LEASE: RuleText = rule("self >= 3 && self <= 60", "leaseSeconds must be between 3 and 60");
pub const HEARTBEAT: RuleText = rule("self >= 1 && self <= 600", "heartbeatSeconds must be between 1 and 600");

/// Of `spec.cors`.
pub const ORIGINS: RuleText = rule(
    "self.all(origin, origin == '*' || origin.matches('^https?://[-a-z0-9.:]+$'))",
    "an origin must be http:// or https:// with a host in lower case and at most a port, or '*'",
);

/// Of references to Secrets.
pub const SECRET_NAME: RuleText = rule(
    "self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')",
    "name must be that of a Secret: lower-case letters, digits, '-' and '.', not starting or ending with '-' or '.'",
);
pub const SECRET_KEY: RuleText =
    rule("self.matches('^[-._a-zA-Z0-9]+$')", "key must be one of a Secret: letters, digits, '-', '_' and '.'");

/// Of `spec.storage`.
pub const STORAGE_KIND: RuleText = rule(
    "[has(self.volume), has(self.memory), has(self.redis)].exists_one(named, named)",
    "storage must name exactly one of volume, memory and redis",
);
pub const STORAGE_KIND_FIXED: RuleText =
    rule("has(self.volume) == has(oldSelf.volume) && has(self.redis) == has(oldSelf.redis)", "the kind of storage is immutable");

/// Of `spec.storage.volume`.
pub const CLASS_FIXED: RuleText = rule(
    "has(self.storageClassName) == has(oldSelf.storageClassName) && \
     (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
    "storageClassName is immutable",
);
/// Narrower than what Kubernetes takes for a quantity, so that the mirror can be exact.
pub const SIZE_FORM: RuleText = rule(
    "self.matches('^[0-9]{1,15}([.][0-9]{1,3})?(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$')",
    "size must be a quantity of bytes, such as 1Gi",
);
/// Kubernetes reads `Gi` as a quantity of nothing: what has no digit at all is told by the rule above alone.
pub const SIZE_POSITIVE: RuleText = rule(
    "self.matches('[1-9]') || !self.matches('^[0-9]{1,15}([.][0-9]{1,3})?(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$')",
    "size must be more than 0",
);
pub const SIZE_GROWS: RuleText =
    rule("!isQuantity(self) || !isQuantity(oldSelf) || !quantity(self).isLessThan(quantity(oldSelf))", "size can only grow");
