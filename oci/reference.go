package oci

import (
	"fmt"
	"regexp"
	"strings"
)

// MaxNameBytes bounds a repository name with its host: clients and registries agree on 255 (distribution-spec, Pull).
const MaxNameBytes = 255

var (
	pathPattern = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	// hostPattern accepts a DNS name, an IPv4 address or localhost, with a port. Hosts are lower case here; DNS ignores case.
	hostPattern = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*(?::[0-9]{1,5})?$`)
	// escapedPort is a port whose ':' is written '_', as it must be inside a repository path.
	escapedPort = regexp.MustCompile(`^(.+)_([0-9]{1,5})$`)
)

// Repository names a repository as clients of Tidewaiter know it. The zero value names nothing.
type Repository struct {
	// Upstream is the host name of the registry it is pulled from, lower case, with a port if it has one: "docker.io",
	// "registry.example:5000". Empty for a repository hosted here.
	Upstream string `json:"upstream,omitempty"`
	// Path is the repository's name at that registry: "library/nginx".
	Path string `json:"path"`
}

// String returns the name people write: "docker.io/library/nginx".
func (r Repository) String() string {
	if r.Upstream == "" {
		return r.Path
	}
	return r.Upstream + "/" + r.Path
}

// Escaped returns the name in the form that is legal as a repository path and as a storage path: a port's ':' as '_'.
func (r Repository) Escaped() string { return EscapePort(r.String()) }

// ValidHost reports whether host may name an upstream: a lower-case host name that nobody can take for the first component of a
// path, see [SplitUpstream].
func ValidHost(host string) bool { return hostPattern.MatchString(host) && looksLikeHost(host) }

// looksLikeHost tells a host from the first component of a path, as clients do.
func looksLikeHost(s string) bool { return s == "localhost" || strings.ContainsAny(s, ".:") }

// ValidTag reports whether tag is a tag by the distribution specification.
func ValidTag(tag string) bool { return tagPattern.MatchString(tag) }

// ValidPath reports whether path is a repository name by the distribution specification.
func ValidPath(path string) bool { return len(path) <= MaxNameBytes && pathPattern.MatchString(path) }

// SplitUpstream takes the upstream's host off the front of a repository path: "docker.io/library/nginx" is docker.io and
// library/nginx. The first component is a host when it is "localhost" or holds a '.', a port's ':' or a port's escaped '_';
// otherwise upstream is empty and path is name unchanged.
func SplitUpstream(name string) (upstream, path string) {
	first, rest, found := strings.Cut(name, "/")
	if !found {
		return "", name
	}
	host := UnescapePort(first)
	if !looksLikeHost(host) {
		return "", name
	}
	return strings.ToLower(host), rest
}

// UnescapePort turns the '_' that stands for a port's ':' back: "registry.example_5000" is "registry.example:5000". Host names
// hold no '_' of their own, so nothing is lost.
func UnescapePort(host string) string {
	if m := escapedPort.FindStringSubmatch(host); m != nil {
		return m[1] + ":" + m[2]
	}
	return host
}

// EscapePort writes a port's ':' as the '_' that is legal in a repository path.
func EscapePort(host string) string { return strings.Replace(host, ":", "_", 1) }

// Reference names one manifest in a repository.
type Reference struct {
	Repository Repository
	// Tag is empty when the reference names only a digest.
	Tag string
	// Digest is empty when the reference names only a tag. When both are given the digest decides.
	Digest Digest
}

// String returns the reference as people write it.
func (r Reference) String() string {
	s := r.Repository.String()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// ParseReference reads what a person typed: "nginx", "nginx:1.27", "ghcr.io/acme/app@sha256:…". A name without a host is hosted here
// if hosted says so, belongs to defaultUpstream if not, and one without a tag or digest means "latest". Single-component names of
// docker.io get its "library/". A nil hosted hosts nothing.
//
// Errors: [ErrNameInvalid], [ErrTagInvalid], [ErrDigestInvalid].
func ParseReference(s, defaultUpstream string, hosted func(path string) bool) (Reference, error) {
	var ref Reference
	name, dgst, found := strings.Cut(s, "@")
	if found {
		d, err := ParseDigest(dgst)
		if err != nil {
			return Reference{}, err
		}
		ref.Digest = d
	}
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		if ref.Tag = name[colon+1:]; !ValidTag(ref.Tag) {
			return Reference{}, fmt.Errorf("tag %.140q: %w", ref.Tag, ErrTagInvalid)
		}
		name = name[:colon]
	}
	if hosted != nil && hosted(name) {
		defaultUpstream = ""
	}
	repo, err := ParseRepository(name, defaultUpstream)
	if err != nil {
		return Reference{}, err
	}
	ref.Repository = repo
	if ref.Tag == "" && ref.Digest == "" {
		ref.Tag = "latest"
	}
	return ref, nil
}

// ParseRepository reads a repository name with or without a host in front. See [ParseReference].
//
// Errors: [ErrNameInvalid].
func ParseRepository(name, defaultUpstream string) (Repository, error) {
	upstream, path := SplitUpstream(name)
	if upstream == "" {
		upstream = defaultUpstream
	}
	return NewRepository(upstream, path)
}

// NewRepository returns the repository called path at upstream, checked. An empty upstream means hosted here; a path that begins
// like a host is then refused, because its name would be that of an upstream's repository, and verdicts go by names.
//
// Errors: [ErrNameInvalid].
func NewRepository(upstream, path string) (Repository, error) {
	if upstream != "" && !ValidHost(upstream) {
		return Repository{}, fmt.Errorf("host %.100q: %w", upstream, ErrNameInvalid)
	}
	if upstream == "docker.io" && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	if host, _ := SplitUpstream(path); upstream == "" && host != "" {
		return Repository{}, fmt.Errorf("hosted repository %.100q begins with a host: %w", path, ErrNameInvalid)
	}
	r := Repository{Upstream: upstream, Path: path}
	if !ValidPath(path) || len(r.String()) > MaxNameBytes {
		return Repository{}, fmt.Errorf("repository %.100q: %w", path, ErrNameInvalid)
	}
	return r, nil
}
