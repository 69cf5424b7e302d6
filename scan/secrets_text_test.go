package scan

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/osv-scalibr/veles"
)

func TestSecretsInTexts(t *testing.T) {
	s := NewSecrets()
	for text, want := range map[string][]string{
		"": nil, "PATH=/usr/bin": nil, "TOKEN=" + token: {"DigitalOcean key"}, token + "\n" + token: {"DigitalOcean key"},
		"KEY=" + privateKeyPEM(t) + " " + token: {"DigitalOcean key", "private key"},
	} {
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				if diff := cmp.Diff(s.Kinds([]byte(text)), want); diff != "" {
					t.Errorf("%.40q, got -, want +:\n%s", text, diff)
				}
			})
		}
		callers.Wait()
	}
}

// faulty is a detector that breaks.
type faulty struct{}

func (faulty) MaxSecretLen() uint32                  { return 1 }
func (faulty) Detect([]byte) ([]veles.Secret, []int) { panic("of a library") }

func TestWhatCannotBeSearchedMayHoldASecret(t *testing.T) {
	s := &Secrets{[]detector{{"joke", faulty{}}}}
	if diff := cmp.Diff(s.Kinds([]byte("x")), []string{unsearched}); diff != "" {
		t.Error(diff)
	}
}
