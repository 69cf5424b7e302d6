package advisories

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// maxRecordBytes bounds the small files this package writes and reads again.
const maxRecordBytes = 64 << 10

// maxFailureBytes bounds what is kept of why an attempt failed.
const maxFailureBytes = 1 << 10

// Origin says where a database came from.
type Origin struct {
	// From is the artifact's reference, or the path of the file it was imported from.
	From string `json:"from"`
	// Digest is the manifest's for an artifact, else the file's; empty for a plain directory.
	Digest oci.Digest `json:"digest,omitempty"`
	// Verified says what was checked beyond the digests inside: "digest", "signature by …"; empty for nothing.
	Verified string `json:"verified,omitempty"`
	// Snapshot is the identity the database had when it was checked.
	Snapshot string `json:"snapshot"`
	// BuiltAt is when the publisher built it, InstalledAt when it came here, NextUpdate when the publisher means to build the next,
	// zero if he does not say; all UTC.
	BuiltAt     time.Time `json:"built_at"`
	InstalledAt time.Time `json:"installed_at"`
	NextUpdate  time.Time `json:"next_update,omitzero"`
}

// Attempts are what came of fetching. Times are UTC, and zero for never.
type Attempts struct {
	// SucceededAt is when the source was last found to have what is in use, or something newer that then was.
	SucceededAt time.Time `json:"succeeded_at,omitzero"`
	FailedAt    time.Time `json:"failed_at,omitzero"`
	// Failure is why; it stays after a success, with its time.
	Failure string `json:"failure,omitempty"`
	// NextAt is when the source will be asked next, by the process that asked last.
	NextAt time.Time `json:"next_at,omitzero"`
}

// rolledBack names what is not to be fetched again by its tag.
type rolledBack struct {
	Digest oci.Digest `json:"digest"`
}

// fail records why an attempt failed.
func (a *Attempts) fail(at time.Time, err error) {
	text := err.Error()
	a.FailedAt, a.Failure = at.UTC(), text[:min(len(text), maxFailureBytes)]
}

// Failing reports whether the last attempt failed.
func (a Attempts) Failing() bool { return a.FailedAt.After(a.SucceededAt) }

// Status is what a folder holds.
type Status struct {
	// InUse and Previous are nil when there is no such database.
	InUse    *Origin `json:"in_use,omitempty"`
	Previous *Origin `json:"previous,omitempty"`
	Attempts
}

// Status reads what the folder holds. A folder that does not exist holds nothing.
//
// Errors: a record that cannot be read.
func (f *Folder) Status() (Status, error) {
	var s Status
	if o, ok := f.generation(currentName); ok {
		s.InUse = &o
	}
	if o, ok := f.generation(previousName); ok && f.target(previousName) != f.target(currentName) {
		s.Previous = &o
	}
	attempts, err := f.attempts()
	s.Attempts = attempts
	return s, err
}

// generation returns where the database behind a link came from; ok is false when there is none. What cannot be read of it is not
// known, and changes nothing about the database.
func (f *Folder) generation(link string) (o Origin, ok bool) {
	name := f.target(link)
	if name == "" {
		return Origin{}, false
	}
	if err := readRecord(filepath.Join(f.path, name, originName), &o); err != nil {
		return Origin{From: name}, true
	}
	return o, true
}

func (f *Folder) attempts() (a Attempts, err error) {
	err = readRecord(filepath.Join(f.path, statusName), &a)
	if errors.Is(err, fs.ErrNotExist) {
		return Attempts{}, nil
	}
	return a, err
}

// note changes what is recorded of attempts. A record that cannot be read begins anew: it is for people.
func (f *Folder) note(change func(*Attempts)) error {
	a, err := f.attempts()
	if err != nil {
		a = Attempts{}
	}
	change(&a)
	if err := os.MkdirAll(f.path, 0o755); err != nil {
		return err
	}
	return writeRecord(filepath.Join(f.path, statusName), a)
}

// publisherNext returns when the publisher means to build the next database; zero when the one in dir does not say.
func publisherNext(dir string) time.Time {
	var m struct{ NextUpdate time.Time }
	if err := readRecord(filepath.Join(dir, metadataName), &m); err != nil {
		return time.Time{}
	}
	return m.NextUpdate.UTC()
}

func readRecord(path string, into any) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	text, err := oci.ReadBounded(file, maxRecordBytes)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// writeRecord replaces a record at once.
func writeRecord(path string, record any) error {
	text, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".record-")
	if err != nil {
		return err
	}
	_, err = file.Write(append(text, '\n'))
	if err := errors.Join(err, file.Chmod(0o644), file.Close()); err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return os.Rename(file.Name(), path)
}
