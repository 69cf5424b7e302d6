package policy

import (
	"context"
	"fmt"
)

// Revisions say what is in force: two that are equal decide alike.
type Revisions struct {
	Policies string `json:"policies"`
	Waivers  string `json:"waivers"`
	Roots    string `json:"roots"`
}

// Told is told of what becomes of changed files. Implementations are safe for concurrent use.
type Told interface {
	// Changed is told before what the files say now comes into force. After an error it does not: what has to be on record first is not
	// done without.
	Changed(ctx context.Context, before, after Revisions) error
	// Refused is told why what is in force stays.
	Refused(ctx context.Context, inForce Revisions, why error)
}

// Tell has t told of every reading from now on. It is called before the files are watched or read again.
func (f *Files) Tell(t Told) { f.told = t }

// Revisions returns what is in force.
func (f *Files) Revisions() Revisions { return f.inForce.Load().revisions() }

func (r rules) revisions() Revisions {
	return Revisions{r.set.Revision, r.set.WaiverRevision, r.roots.Revision}
}

// tellChanged tells that read is about to come into force, unless it says the same as before.
func (f *Files) tellChanged(ctx context.Context, read rules) error {
	before := f.inForce.Load()
	if f.told == nil || before == nil || before.revisions() == read.revisions() {
		return nil
	}
	if err := f.told.Changed(ctx, before.revisions(), read.revisions()); err != nil {
		return fmt.Errorf("the files that changed do not come into force: %w", err)
	}
	return nil
}

func (f *Files) tellRefused(ctx context.Context, why error) {
	if f.told != nil {
		f.told.Refused(ctx, f.Revisions(), why)
	}
}
