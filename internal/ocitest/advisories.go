package ocitest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Advisory is one row of a trivy-db file: a vulnerability in a package of a release or ecosystem.
type Advisory struct {
	// Bucket is where the row is filed: "debian 12", "npm::GitHub Security Advisory npm", "Red Hat".
	Bucket string
	// Package is the name it is filed under: a source package, a module ("nodejs:18::npm"), "group:artifact".
	Package string
	// ID is the vulnerability, "CVE-2021-44228".
	ID string
	// Erratum, in bucket "Red Hat", is what the row is filed under in place of ID, "RHSA-2024:0001".
	Erratum string
	// Fixed is the first version that is not affected, for packages of a distribution; empty when there is none.
	Fixed string
	// Affected is the first version that is affected, for packages of a distribution; empty for all.
	Affected string
	// Status is trivy-db's number for what becomes of a vulnerability without a fix: 2 affected, 5 will not fix, 7 end of life.
	Status int
	// RowSeverity is the source's rating for this very package, where it has one: low, medium, high, critical.
	RowSeverity string
	// Arches are the architectures the row is about; rows of the same vulnerability and package with other ones go together.
	Arches []string
	// CPEs, in bucket "Red Hat", are the products the row is about: "cpe:/o:redhat:enterprise_linux:9::baseos".
	CPEs []string
	// Repositories and Builds, in bucket "Red Hat", are what an image may say it is from that stands for CPEs.
	Repositories, Builds []string
	// Vulnerable, Patched and Unaffected are sets of versions, for packages of a language: ">=1.0.0, <1.2.3".
	Vulnerable, Patched, Unaffected []string

	// Source identifies who stated the row, "debian"; it stands for the whole bucket.
	Source string
	// Severity is what Source rates the vulnerability, Ratings what others do, by their identifiers: "nvd", "ghsa".
	Severity string
	Ratings  map[string]string
	// Title and Published describe the vulnerability.
	Title     string
	Published time.Time
}

// The forms below are those of trivy-db's schema 2. Numbers stand for severities and statuses.

type storedAdvisory struct {
	Severity           int           `json:",omitempty"`
	FixedVersion       string        `json:",omitempty"`
	AffectedVersion    string        `json:",omitempty"`
	VulnerableVersions []string      `json:",omitempty"`
	PatchedVersions    []string      `json:",omitempty"`
	UnaffectedVersions []string      `json:",omitempty"`
	Status             int           `json:",omitempty"`
	Entries            []storedEntry `json:",omitempty"`
}

type storedEntry struct {
	FixedVersion string      `json:",omitempty"`
	Cves         []storedCVE `json:",omitempty"`
	Arches       []string    `json:",omitempty"`
	Affected     []int       `json:",omitempty"`
	Status       int         `json:",omitempty"`
}

type storedCVE struct {
	ID       string `json:",omitempty"`
	Severity int    `json:",omitempty"`
}

type storedVulnerability struct {
	Title          string         `json:",omitempty"`
	Severity       string         `json:",omitempty"`
	VendorSeverity map[string]int `json:",omitempty"`
	PublishedDate  *time.Time     `json:",omitempty"`
}

type storedSource struct {
	ID   string `json:",omitempty"`
	Name string `json:",omitempty"`
}

const redHatBucket = "Red Hat"

// severityNumbers are trivy-db's severities by the words of [Advisory].
var severityNumbers = map[string]int{"": 0, "low": 1, "medium": 2, "high": 3, "critical": 4}

// WriteAdvisories writes advisories as trivy.db, with the metadata.json that says it was built at updatedAt, into the directory dir.
// Each replaces at once what was there, as a running reader needs.
func WriteAdvisories(dir string, updatedAt time.Time, advisories []Advisory) error {
	path := filepath.Join(dir, "trivy.db")
	if err := os.Remove(path + ".new"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := bolt.Open(path+".new", 0o644, &bolt.Options{Timeout: time.Second})
	if err != nil {
		return fmt.Errorf("creating %s: %w", path, err)
	}
	w := advisoryWriter{cpes: map[string]int{}, channels: map[string]map[string][]int{"repository": {}, "nvr": {}}}
	err = errors.Join(db.Update(func(tx *bolt.Tx) error {
		w.tx = tx
		return w.write(advisories)
	}), db.Close())
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	metadata, err := json.Marshal(map[string]any{
		"Version": 2, "UpdatedAt": updatedAt.UTC(), "NextUpdate": updatedAt.UTC().Add(24 * time.Hour), "DownloadedAt": updatedAt.UTC(),
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "metadata.json.new"), metadata, 0o644); err != nil {
		return err
	}
	return errors.Join(os.Rename(path+".new", path), os.Rename(filepath.Join(dir, "metadata.json.new"), filepath.Join(dir, "metadata.json")))
}

type advisoryWriter struct {
	tx *bolt.Tx
	// cpes numbers the products named so far.
	cpes map[string]int
	// channels are, by bucket, the products that repositories and builds stand for.
	channels map[string]map[string][]int
}

func (w *advisoryWriter) write(advisories []Advisory) error {
	for _, bucket := range []string{"vulnerability", "data-source"} { // present even when empty
		if _, err := w.tx.CreateBucketIfNotExists([]byte(bucket)); err != nil {
			return err
		}
	}
	for _, a := range advisories {
		if err := w.writeAdvisory(a); err != nil {
			return fmt.Errorf("%s of %s: %w", a.ID, a.Package, err)
		}
	}
	for cpe, number := range w.cpes {
		if err := w.put([]string{"Red Hat CPE", "cpe"}, strconv.Itoa(number), cpe); err != nil {
			return err
		}
	}
	for bucket, channels := range w.channels {
		for name, numbers := range channels {
			slices.Sort(numbers)
			if err := w.put([]string{"Red Hat CPE", bucket}, name, slices.Compact(numbers)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *advisoryWriter) writeAdvisory(a Advisory) error {
	for _, word := range slices.AppendSeq([]string{a.Severity, a.RowSeverity}, maps.Values(a.Ratings)) {
		if _, ok := severityNumbers[word]; !ok {
			return fmt.Errorf("unknown severity %q", word)
		}
	}
	_, name, ok := strings.Cut(a.Bucket, "::")
	if !ok {
		name = a.Bucket
	}
	return errors.Join(
		w.put([]string{"data-source"}, a.Bucket, storedSource{ID: a.Source, Name: name}),
		w.putRow(a),
		w.putVulnerability(a),
	)
}

// putRow writes the row of a, adding to the one already there when rows differ by architecture or product.
func (w *advisoryWriter) putRow(a Advisory) error {
	under, key := []string{a.Bucket, a.Package}, cmp.Or(a.Erratum, a.ID)
	if a.Bucket != redHatBucket && len(a.Arches) == 0 {
		return w.put(under, key, storedAdvisory{
			Severity: severityNumbers[a.RowSeverity], FixedVersion: a.Fixed, AffectedVersion: a.Affected, Status: a.Status,
			VulnerableVersions: a.Vulnerable, PatchedVersions: a.Patched, UnaffectedVersions: a.Unaffected,
		})
	}
	entry := storedEntry{FixedVersion: a.Fixed, Arches: a.Arches, Status: a.Status}
	if a.Bucket == redHatBucket {
		cve := storedCVE{Severity: severityNumbers[cmp.Or(a.RowSeverity, a.Severity)]}
		if a.Erratum != "" {
			cve.ID = a.ID
		}
		entry.Cves = []storedCVE{cve}
		entry.Affected = w.numbers(a.CPEs)
		for _, name := range a.Repositories {
			w.channels["repository"][name] = append(w.channels["repository"][name], entry.Affected...)
		}
		for _, name := range a.Builds {
			w.channels["nvr"][name] = append(w.channels["nvr"][name], entry.Affected...)
		}
	}
	var row storedAdvisory
	if err := w.get(under, key, &row); err != nil {
		return err
	}
	row.FixedVersion = ""
	if a.Bucket != redHatBucket {
		row.FixedVersion = a.Fixed // what readers of before there were entries go by
	}
	row.Entries = append(row.Entries, entry)
	return w.put(under, key, row)
}

func (w *advisoryWriter) putVulnerability(a Advisory) error {
	var v storedVulnerability
	if err := w.get([]string{"vulnerability"}, a.ID, &v); err != nil {
		return err
	}
	v.Title = cmp.Or(v.Title, a.Title)
	v.Severity = cmp.Or(strings.ToUpper(a.Severity), v.Severity, "UNKNOWN")
	if !a.Published.IsZero() {
		published := a.Published.UTC()
		v.PublishedDate = &published
	}
	if v.VendorSeverity == nil {
		v.VendorSeverity = map[string]int{}
	}
	if a.Severity != "" {
		v.VendorSeverity[a.Source] = severityNumbers[a.Severity]
	}
	for source, word := range a.Ratings {
		v.VendorSeverity[source] = severityNumbers[word]
	}
	return w.put([]string{"vulnerability"}, a.ID, v)
}

// numbers returns the numbers of cpes, giving new ones the next.
func (w *advisoryWriter) numbers(cpes []string) []int {
	var numbers []int
	for _, cpe := range cpes {
		if _, ok := w.cpes[cpe]; !ok {
			w.cpes[cpe] = len(w.cpes)
		}
		numbers = append(numbers, w.cpes[cpe])
	}
	return numbers
}

func (w *advisoryWriter) put(under []string, key string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	b, err := w.tx.CreateBucketIfNotExists([]byte(under[0]))
	for _, name := range under[1:] {
		if err != nil {
			return err
		}
		b, err = b.CreateBucketIfNotExists([]byte(name))
	}
	if err != nil {
		return err
	}
	return b.Put([]byte(key), text)
}

// get reads what put wrote into value, and leaves it alone if nothing was.
func (w *advisoryWriter) get(under []string, key string, value any) error {
	b := w.tx.Bucket([]byte(under[0]))
	for _, name := range under[1:] {
		if b == nil {
			return nil
		}
		b = b.Bucket([]byte(name))
	}
	if b == nil {
		return nil
	}
	text := b.Get([]byte(key))
	if text == nil {
		return nil
	}
	return json.Unmarshal(text, value)
}
