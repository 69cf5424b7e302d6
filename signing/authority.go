package signing

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// speaker is a way in which an authority signs. Implementations are safe for concurrent use.
type speaker interface {
	// made returns who of the authority made c, if that counts at now.
	// Errors: [errNotSigned]; any other says, in a clause for a person, why what somebody made does not count.
	made(c claim, now time.Time) (mark, error)
}

// mark is who is found to have made a claim, and when.
type mark struct {
	// signer and issuer are as in [gate.Signature].
	signer, issuer string
	// at is when it was made by the word of somebody trusted, UTC; zero if nobody says so.
	at time.Time
	// until is when it stops counting, UTC, exclusive; zero for never.
	until time.Time
}

// errNotSigned says that an authority did not make a claim.
var errNotSigned = errors.New("not signed by it")

// authority is an authority that is ready to check claims.
type authority struct {
	name string
	speaker
	// byKeys says that it signs with keys alone.
	byKeys bool
}

// loadAuthority prepares a, whose keys in key management services are fetched.
func loadAuthority(a gate.Authority, fetched []gate.TrustedKey) (authority, error) {
	loaded := authority{name: a.Name}
	var err error
	switch {
	case a.Keyless != nil:
		loaded.speaker, err = loadKeyless(a.Name, *a.Keyless)
	case a.Notation != nil:
		loaded.speaker, err = loadNotation(a.Name, *a.Notation)
	case len(a.Keys) > 0 || len(a.KMS) > 0:
		loaded.byKeys = true
		loaded.speaker, err = loadKeys(a.Name, slices.Concat(a.Keys, fetched))
	default:
		err = errors.New("it has no way to sign")
	}
	if err != nil {
		return authority{}, fmt.Errorf("authority %s: %w", a.Name, err)
	}
	return loaded, nil
}

// CheckRoots reports every authority of roots that cannot be used, so that whoever puts roots in force hears of it before an image
// does. A policy that asks for such an authority gets no verdict. Key management services are not asked.
func CheckRoots(roots *gate.TrustRoots) error {
	var errs []error
	for _, a := range roots.Authorities {
		_, err := loadAuthority(a, nil)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// KeyService fetches the public half of a key that lies in a key management service. Implementations are safe for concurrent use.
// Errors: any; there is then no verdict that needs the key.
type KeyService func(ctx context.Context, reference string) (crypto.PublicKey, error)

// authorities are the authorities of one set of trust roots, prepared when they are first asked for. Safe for concurrent use.
type authorities struct {
	service KeyService

	mu sync.Mutex
	// roots and ready are guarded by mu: ready holds the authorities of roots by name.
	roots *gate.TrustRoots
	ready map[string]authority
	// pinned is guarded by mu: keys once fetched, by reference. A service is asked once, and again only by another process.
	pinned map[string]gate.TrustedKey
}

// of returns the authorities of roots called names, sorted, each once. Roots are never modified, so the same roots are prepared once.
func (l *authorities) of(ctx context.Context, roots *gate.TrustRoots, names []string) ([]authority, error) {
	if roots == nil {
		return nil, errors.New("there are no trust roots")
	}
	var asked []authority
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		a, err := l.one(ctx, roots, name)
		if err != nil {
			return nil, err
		}
		asked = append(asked, a)
	}
	return asked, nil
}

// one returns an authority of roots.
func (l *authorities) one(ctx context.Context, roots *gate.TrustRoots, name string) (authority, error) {
	l.mu.Lock()
	if l.roots != roots {
		l.roots, l.ready = roots, map[string]authority{}
	}
	a, ok := l.ready[name]
	l.mu.Unlock()
	if ok {
		return a, nil
	}
	i := slices.IndexFunc(roots.Authorities, func(a gate.Authority) bool { return a.Name == name })
	if i < 0 {
		return authority{}, fmt.Errorf("the trust roots have no authority %q", name)
	}
	var fetched []gate.TrustedKey
	for _, k := range roots.Authorities[i].KMS { // with nobody locked out meanwhile
		key, err := l.fetch(ctx, k)
		if err != nil {
			return authority{}, fmt.Errorf("authority %s: the key %s: %w", name, k.Reference, err)
		}
		fetched = append(fetched, key)
	}
	a, err := loadAuthority(roots.Authorities[i], fetched)
	if err != nil {
		return authority{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.roots == roots {
		l.ready[name] = a
	}
	return a, nil
}

// fetch returns a key that lies in a key management service, from there the first time.
func (l *authorities) fetch(ctx context.Context, k gate.KMSKey) (gate.TrustedKey, error) {
	l.mu.Lock()
	key, ok := l.pinned[k.Reference]
	l.mu.Unlock()
	if !ok {
		if l.service == nil {
			return gate.TrustedKey{}, errors.New("there is no way to the service it lies in")
		}
		public, err := l.service(ctx, k.Reference)
		if err != nil {
			return gate.TrustedKey{}, err
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return gate.TrustedKey{}, err
		}
		sum := sha256.Sum256(der)
		l.mu.Lock()
		if l.pinned == nil {
			l.pinned = map[string]gate.TrustedKey{}
		}
		if key, ok = l.pinned[k.Reference]; !ok { // of two that ask at once the first counts
			key = gate.TrustedKey{Public: public, Fingerprint: hex.EncodeToString(sum[:])}
			l.pinned[k.Reference] = key
		}
		l.mu.Unlock()
	}
	key.NotBefore, key.NotAfter = k.NotBefore, k.NotAfter
	return key, nil
}
