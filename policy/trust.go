package policy

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// LoadTrust reads trust files into one set of authorities. A file they name that is not absolute is looked for beside the trust file
// that names it. Without files nobody is trusted.
//
// Errors: [*Problems] for everything wrong with the files or with the keys they name; otherwise a trust file could not be read.
func LoadTrust(files []string) (*gate.TrustRoots, error) {
	roots, _, err := loadTrust(files)
	return roots, err
}

// loadTrust is [LoadTrust], and returns also which files the trust files name, even if it fails.
func loadTrust(files []string) (roots *gate.TrustRoots, keyFiles []string, err error) {
	sources, err := readAll(files)
	if err != nil {
		return nil, nil, err
	}
	return parseTrust(sources, readBounded)
}

// roots is what has been read of a set of trust files.
type roots struct {
	strict
	authorities []gate.Authority
	// named says where each authority's name was first used, and keyed where each key was, by fingerprint.
	named, keyed map[string]place
	// readFile is [readBounded], or stands for it.
	readFile func(name string, limit int64) ([]byte, error)
	// keyFiles are the files that were looked for: of keys, certificates and trusted roots.
	keyFiles []string
}

// parseTrust reads sources, and through readFile the files they name, into one set.
func parseTrust(sources []source, readFile func(name string, limit int64) ([]byte, error)) (*gate.TrustRoots, []string, error) {
	r := roots{named: map[string]place{}, keyed: map[string]place{}, readFile: readFile}
	for _, src := range sources {
		if root, ok := r.open(src); ok {
			has := r.mapping(root, fields{"authorities": func(v value) { r.list(v, r.authority) }})
			r.need(root, has, "authorities")
		}
	}
	if err := asError(r.problems, sources); err != nil {
		return nil, r.keyFiles, err
	}
	slices.SortFunc(r.authorities, func(a, b gate.Authority) int { return cmp.Compare(a.Name, b.Name) })
	return &gate.TrustRoots{Authorities: r.authorities, Revision: rootsRevision(r.authorities)}, r.keyFiles, nil
}

func (r *roots) authority(v value) {
	var a gate.Authority
	has := r.mapping(v, fields{
		"name":     func(v value) { a.Name = r.authorityName(v) },
		"cosign":   func(v value) { a.Keys, a.KMS = r.cosign(v) },
		"keyless":  func(v value) { a.Keyless = r.keyless(v) },
		"notation": func(v value) { a.Notation = r.notation(v) },
	})
	r.need(v, has, "name")
	r.exactlyOne(v, has, "cosign", "keyless", "notation")
	r.authorities = append(r.authorities, a)
}

func (r *roots) authorityName(v value) string {
	name, ok := r.name(v)
	if !ok {
		return ""
	}
	if first, taken := r.named[name]; taken {
		r.refuse(v, "an authority named %q stands at %s already", name, first)
		return ""
	}
	r.named[name] = r.at(v)
	return name
}

// cosign reads the keys of an authority: one, or several with the time each counts.
func (r *roots) cosign(v value) (keys []gate.TrustedKey, services []gate.KMSKey) {
	one := func(v value) { keys = append(keys, r.key(v)) }
	has := r.mapping(v, fields{
		"key_file": one,
		"key":      one,
		"keys": func(v value) {
			each := func(v value) {
				if key, service := r.windowedKey(v); service.Reference != "" {
					services = append(services, service)
				} else {
					keys = append(keys, key)
				}
			}
			if r.list(v, each) && len(v.node.Content) == 0 {
				r.refuse(v, "is empty")
			}
		},
		"kms": func(v value) { services = append(services, gate.KMSKey{Reference: r.kms(v)}) },
	})
	r.exactlyOne(v, has, "key_file", "key", "keys", "kms")
	slices.SortFunc(keys, func(a, b gate.TrustedKey) int { return cmp.Compare(a.Fingerprint, b.Fingerprint) })
	slices.SortFunc(services, func(a, b gate.KMSKey) int { return cmp.Compare(a.Reference, b.Reference) })
	return keys, services
}

// kmsSchemes are the key management services that are known. For any other scheme the library behind them would start a program.
var kmsSchemes = []string{"awskms://", "azurekms://", "gcpkms://", "hashivault://"}

// kms reads which key in a key management service speaks for an authority. It is not asked here: what a file says must not depend on
// whether a service can be reached.
func (r *roots) kms(v value) string {
	t, ok := r.word(v)
	if !ok {
		return ""
	}
	if !slices.ContainsFunc(kmsSchemes, func(scheme string) bool { return strings.HasPrefix(t, scheme) && len(t) > len(scheme) }) {
		r.refuse(v, "%.80q is no key in a service that is known: want one of %s", t, strings.Join(kmsSchemes, ", "))
		return ""
	}
	if first, taken := r.keyed[t]; taken {
		r.refuse(v, "the same key stands at %s already", first)
	} else {
		r.keyed[t] = r.at(v)
	}
	return t
}

// exactlyOne reports v unless it has one of keys and no other. has is what [strict.mapping] returned for v.
func (r *roots) exactlyOne(v value, has map[string]bool, keys ...string) {
	given := slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return !has[k] })
	if has != nil && len(given) != 1 {
		r.refuse(v, "want exactly one of %s", strings.Join(keys, ", "))
	}
}

func (r *roots) windowedKey(v value) (k gate.TrustedKey, service gate.KMSKey) {
	var from, until time.Time
	one := func(v value) { k = r.key(v) }
	has := r.mapping(v, fields{
		"key_file":   one,
		"key":        one,
		"not_before": func(v value) { from, _ = r.instant(v) },
		"not_after":  func(v value) { until, _ = r.instant(v) },
		"kms":        func(v value) { service.Reference = r.kms(v) },
	})
	r.exactlyOne(v, has, "key_file", "key", "kms")
	if !until.IsZero() && !from.Before(until) {
		r.refuse(v, "not_after is no later than not_before, so the key never counts")
	}
	k.NotBefore, k.NotAfter = from, until
	service.NotBefore, service.NotAfter = from, until
	return k, service
}

// key reads the public key that v holds, or names the file of. A key speaks for one authority, and once: were it two, one
// signature could stand for both where a policy asks for all of them.
func (r *roots) key(v value) gate.TrustedKey {
	text, ok := r.text(v)
	if !ok {
		return gate.TrustedKey{}
	}
	encoded := []byte(text)
	if v.key == "key_file" {
		if encoded, ok = r.beside(v, text, maxKeyBytes); !ok {
			return gate.TrustedKey{}
		}
	}
	k, err := parseKey(encoded)
	if err != nil {
		r.refuse(v, "%v", err)
		return gate.TrustedKey{}
	}
	if first, taken := r.keyed[k.Fingerprint]; taken {
		r.refuse(v, "the same key stands at %s already", first)
	} else {
		r.keyed[k.Fingerprint] = r.at(v)
	}
	return k
}

// beside returns what the file called name holds, or its first limit+1 bytes. A name that is not absolute starts at the directory of
// the file being read.
func (r *roots) beside(v value, name string, limit int64) ([]byte, bool) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(r.file), name)
	}
	r.keyFiles = append(r.keyFiles, name)
	content, err := r.readFile(name, limit)
	if err != nil {
		r.refuse(v, "%v", err)
	}
	return content, err == nil
}
