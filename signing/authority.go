package signing

import (
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

func loadAuthority(a gate.Authority) (authority, error) {
	loaded := authority{name: a.Name}
	var err error
	switch {
	case a.Keyless != nil:
		loaded.speaker, err = loadKeyless(a.Name, *a.Keyless)
	case a.Notation != nil:
		loaded.speaker, err = loadNotation(a.Name, *a.Notation)
	case len(a.Keys) > 0:
		loaded.byKeys = true
		loaded.speaker, err = loadKeys(a.Name, a.Keys)
	default:
		err = errors.New("it has no way to sign")
	}
	if err != nil {
		return authority{}, fmt.Errorf("authority %s: %w", a.Name, err)
	}
	return loaded, nil
}

// CheckRoots reports every authority of roots that cannot be used, so that whoever puts roots in force hears of it before an image
// does. A policy that asks for such an authority gets no verdict.
func CheckRoots(roots *gate.TrustRoots) error {
	var errs []error
	for _, a := range roots.Authorities {
		_, err := loadAuthority(a)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// authorities are the authorities of one set of trust roots, prepared when they are first asked for. Safe for concurrent use.
type authorities struct {
	mu sync.Mutex
	// roots and ready are guarded by mu: ready holds the authorities of roots by name.
	roots *gate.TrustRoots
	ready map[string]authority
}

// of returns the authorities of roots called names, sorted, each once. Roots are never modified, so the same roots are prepared once.
func (l *authorities) of(roots *gate.TrustRoots, names []string) ([]authority, error) {
	if roots == nil {
		return nil, errors.New("there are no trust roots")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.roots != roots {
		l.roots, l.ready = roots, map[string]authority{}
	}
	var asked []authority
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		a, ok := l.ready[name]
		if !ok {
			i := slices.IndexFunc(roots.Authorities, func(a gate.Authority) bool { return a.Name == name })
			if i < 0 {
				return nil, fmt.Errorf("the trust roots have no authority %q", name)
			}
			var err error
			if a, err = loadAuthority(roots.Authorities[i]); err != nil {
				return nil, err
			}
			l.ready[name] = a
		}
		asked = append(asked, a)
	}
	return asked, nil
}
