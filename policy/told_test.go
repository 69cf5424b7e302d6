package policy

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// told notes what it is told, and can refuse.
type told struct {
	said   []string
	refuse error
}

func (d *told) Changed(_ context.Context, before, after Revisions) error {
	d.said = append(d.said, "changed")
	if before == after || before.Roots != after.Roots {
		d.said = append(d.said, "to what it was")
	}
	return d.refuse
}

func (d *told) Refused(_ context.Context, _ Revisions, why error) {
	d.said = append(d.said, "refused: "+why.Error()[:len("policy.yaml")])
}

func TestWhoIsToldOfChanges(t *testing.T) {
	dir := t.TempDir()
	files, _ := openFiles(t, dir)
	d := &told{}
	files.Tell(d)
	reload := func(policy string) error {
		replace(t, filepath.Join(dir, "policy.yaml"), policy)
		return files.Reload(t.Context())
	}
	for _, policy := range []string{policyNamed("first"), policyNamed("second")} { // the first says what it said
		if err := reload(policy); err != nil {
			t.Fatal(err)
		}
	}
	if err := reload("nonsense"); err == nil {
		t.Error("nonsense is in force")
	}
	if diff := cmp.Diff([]string{"changed"}, d.said[:1]); diff != "" || len(d.said) != 2 || !strings.HasPrefix(d.said[1], "refused") {
		t.Errorf("it was told %q", d.said)
	}

	d.refuse = errors.New("the audit log is full")
	before := files.Revisions()
	if err := reload(policyNamed("third")); !errors.Is(err, d.refuse) || files.Revisions() != before {
		t.Errorf("what could not be put on record is in force: %v", err)
	}
	d.refuse = nil
	if err := files.Reload(t.Context()); err != nil || files.Revisions() == before {
		t.Errorf("and does not come into force later: %v", err)
	}
}
