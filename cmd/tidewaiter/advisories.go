package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/advisories"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/policy"
	"github.com/tidewaiter/tidewaiter/scan"
	"github.com/tidewaiter/tidewaiter/upstream"
)

// signatureSuffixes are what a signature beside a file may be called, in the order they are looked for.
var signatureSuffixes = []string{".sigstore.json", ".bundle", ".sig"}

func newAdvisories(inv *invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "advisories",
		Short: "Bring, replace and look at the advisory data images are judged by",
		Long: `Bring, replace and look at the advisory data images are judged by. A proxy that runs over the same folder notices at once.

The data is a trivy-db of schema 2. Whatever brings a new one checks the whole of it first, and keeps the one before.`,
		Example: "  tidewaiter advisories status --config tidewaiter.yaml",
		Args:    onlyCommands,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newAdvisoriesUpdate(inv), newAdvisoriesImport(inv), newAdvisoriesRollback(inv), newAdvisoriesStatus(inv))
	return cmd
}

// withFolder runs do with the folder the configuration names.
func (inv *invocation) withFolder(do func(*config, *advisories.Folder) error) error {
	c, err := loadConfig(inv.configFile)
	if err != nil {
		return err
	}
	folder, err := c.advisoryFolder()
	if err != nil {
		return err
	}
	return do(c, folder)
}

func newAdvisoriesUpdate(inv *invocation) *cobra.Command {
	digest := ""
	cmd := &cobra.Command{
		Use:   "update",
		Short: "Fetch the database from advisories.source now",
		Long: `Fetch the database from advisories.source, unless it is in use already. With --digest the database is the one with that manifest digest,
even if it is older than the one in use or was rolled back from; else an older one is refused, since it would hide advisories.`,
		Example: "  tidewaiter advisories update --config tidewaiter.yaml",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return inv.withFolder(func(c *config, folder *advisories.Folder) error {
				changed, err := inv.update(cmd.Context(), c, folder, digest)
				if err != nil {
					return err
				}
				return inv.printFolder(folder, changed)
			})
		},
	}
	cmd.Flags().StringVar(&digest, "digest", "", "digest of the manifest that is meant, whatever the tag leads to")
	inv.withConfig(cmd)
	inv.withOutput(cmd)
	inv.withQuiet(cmd)
	return cmd
}

func (inv *invocation) update(ctx context.Context, c *config, folder *advisories.Folder, digest string) (changed bool, err error) {
	if c.Advisories.Source == "" {
		return false, usageError(errors.New("advisories.source is not set, so there is nowhere to fetch from"))
	}
	registries, source, err := c.advisorySource(upstream.Options{UserAgent: "tidewaiter/" + version, Log: newLogger(inv.stderr, "error", "text")})
	if err != nil {
		return false, usageError(err)
	}
	defer registries.Close()
	if digest != "" {
		if source.Digest, err = oci.ParseDigest(digest); err != nil {
			return false, usageError(err)
		}
	}
	var bar *progress
	if !inv.quiet {
		bar = newProgress(inv.stderr)
	}
	changed, err = folder.Update(ctx, shown{registries, bar}, source)
	bar.end()
	if err != nil {
		return false, fmt.Errorf("updating advisories from %s: %w", source, err)
	}
	return changed, nil
}

func newAdvisoriesImport(inv *invocation) *cobra.Command {
	digest, key, signature := "", "", ""
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Bring in a database from a file",
		Long: `Bring in a database from a file, where there is no network: trivy.db, with the metadata.json beside it; a tar archive, gzipped or not, of
trivy.db and metadata.json; an OCI layout, as a folder or a tar archive; or a folder with the two files.

With --digest it must have that digest: of its manifest for an OCI layout, else what sha256sum prints for the file. With --key it must
be signed, as "cosign sign-blob --key" does; the signature lies in --signature, or beside FILE with .sigstore.json, .bundle or .sig after
its name. Otherwise nothing is known of who made it: the publisher does not sign it.`,
		Example: "  tidewaiter advisories import db.tar.gz --key release.pub\n  tidewaiter advisories import ./layout --digest sha256:...",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return inv.withFolder(func(_ *config, folder *advisories.Folder) error {
				proof, err := readProof(args[0], digest, key, signature)
				if err != nil {
					return err
				}
				if _, err := folder.Import(cmd.Context(), args[0], proof); err != nil {
					err = fmt.Errorf("importing %s: %w", args[0], err)
					if _, statErr := os.Stat(args[0]); errors.Is(statErr, fs.ErrNotExist) {
						return usageError(err)
					}
					return err
				}
				return inv.printFolder(folder, true)
			})
		},
	}
	cmd.Flags().StringVar(&digest, "digest", "", "digest it must have")
	cmd.Flags().StringVar(&key, "key", "", "file of the public key it must be signed by, in PEM")
	cmd.Flags().StringVar(&signature, "signature", "", "file of the signature, a Sigstore bundle or base64 (default beside FILE)")
	inv.withConfig(cmd)
	inv.withOutput(cmd)
	inv.withQuiet(cmd)
	return cmd
}

// readProof returns what a file must be, by the flags of the command.
func readProof(file, digest, keyFile, signatureFile string) (advisories.Proof, error) {
	var proof advisories.Proof
	var err error
	if digest != "" {
		if proof.Digest, err = oci.ParseDigest(digest); err != nil {
			return proof, usageError(err)
		}
	}
	if keyFile == "" {
		if signatureFile != "" {
			return proof, usageError(errors.New("--signature needs --key: a signature by nobody in particular says nothing"))
		}
		return proof, nil
	}
	key, err := policy.LoadKey(keyFile)
	if err != nil {
		return proof, usageError(err)
	}
	encoded, err := readSignature(file, signatureFile)
	if err != nil {
		return proof, err
	}
	proof.Signature, err = advisories.NewSignature(key, encoded)
	return proof, err
}

// readSignature returns the signature in a file, or in the first of those that may lie beside what it signs.
func readSignature(file, signatureFile string) ([]byte, error) {
	names := []string{signatureFile}
	if signatureFile == "" {
		names = nil
		for _, suffix := range signatureSuffixes {
			names = append(names, strings.TrimRight(file, "/")+suffix)
		}
	}
	for _, name := range names {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) && signatureFile == "" {
			continue
		}
		if err != nil {
			return nil, usageError(err)
		}
		encoded, err := oci.ReadBounded(f, advisories.MaxSignatureBytes)
		return encoded, errors.Join(err, f.Close())
	}
	return nil, fmt.Errorf("there is no signature beside %s (%s): %w", file, strings.Join(signatureSuffixes, ", "), advisories.ErrUnverified)
}

func newAdvisoriesRollback(inv *invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Put the database before into use again",
		Long: `Put the database before into use again, and keep the one in use as the one before. A tag that still leads to the one rolled back from is
not followed until it leads to another.`,
		Example: "  tidewaiter advisories rollback --config tidewaiter.yaml",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return inv.withFolder(func(_ *config, folder *advisories.Folder) error {
				if _, err := folder.Rollback(cmd.Context()); err != nil {
					return fmt.Errorf("rolling back: %w", err)
				}
				return inv.printFolder(folder, true)
			})
		},
	}
	inv.withConfig(cmd)
	inv.withOutput(cmd)
	inv.withQuiet(cmd)
	return cmd
}

// brought is what the commands that change a folder print.
type brought struct {
	Changed bool `json:"changed"`
	advisories.Status
}

func (inv *invocation) printFolder(folder *advisories.Folder, changed bool) error {
	status, err := folder.Status()
	if err != nil {
		return err
	}
	return inv.print(brought{changed, status}, func(w io.Writer) error {
		word := "in use"
		if !changed {
			word = "unchanged"
		}
		var b strings.Builder
		writeOrigin(&b, word, status.InUse)
		writeOrigin(&b, "before", status.Previous)
		_, err := io.WriteString(w, b.String())
		return err
	})
}

func newAdvisoriesStatus(inv *invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say which advisory data is in use, how old it is, and what came of fetching",
		Long: `Say which advisory data is in use, when it was built, until when it counts, where it came from, and what came of fetching. The data is
opened and checked as the proxy does.

Exit codes: 0 there is data that can be used (if it is too old to count, it says so), 1 there is none, 2 usage or configuration error.`,
		Example: "  tidewaiter advisories status --config tidewaiter.yaml -o json",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(inv.configFile)
			if err != nil {
				return err
			}
			facts, err := advisoryFacts(cmd.Context(), c, time.Now().UTC())
			if err != nil {
				return err
			}
			if err := inv.print(facts, func(w io.Writer) error { return printFacts(w, facts) }); err != nil {
				return err
			}
			if facts.Snapshot == "" {
				return errors.New("there is no advisory data that can be used")
			}
			return nil
		},
	}
	inv.withConfig(cmd)
	inv.withOutput(cmd)
	return cmd
}

// facts is what is known of the advisory data.
type facts struct {
	Path   string `json:"path,omitempty"`
	Source string `json:"source,omitempty"`
	// Snapshot is the identity verdicts name, empty when there is no data; Problem then says why if there should be some.
	Snapshot string        `json:"snapshot,omitempty"`
	Problem  string        `json:"problem,omitempty"`
	BuiltAt  time.Time     `json:"built_at,omitzero"`
	Age      time.Duration `json:"-"`
	// AgeSeconds is how long before now it was built.
	AgeSeconds int64 `json:"age_seconds"`
	// Until is when it is too old to count, zero for never; Stale says that it is.
	Until time.Time `json:"until,omitzero"`
	Stale bool      `json:"stale"`
	advisories.Status
}

func advisoryFacts(ctx context.Context, c *config, now time.Time) (facts, error) {
	path, err := c.advisoryPath()
	if err != nil {
		return facts{}, err
	}
	f := facts{Path: path, Source: c.Advisories.Source}
	a, err := scan.AwaitAdvisories(ctx, path, c.Advisories.MaxAge, time.Now)
	if err != nil {
		f.Problem = err.Error()
	} else {
		f.show(a.Snapshot(), now)
		if err := a.Close(); err != nil {
			return facts{}, err
		}
	}
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		return f, nil // a file, of which nothing more is known
	}
	f.Status, err = advisories.NewFolder(path, checkDatabase, time.Now).Status()
	return f, err
}

// show has f say which data is in use, and how it stands at now.
func (f *facts) show(s gate.Snapshot, now time.Time) {
	if s.ID == "" {
		return
	}
	f.Snapshot, f.BuiltAt, f.Until = s.ID, s.UpdatedAt, s.Until
	f.Age = now.Sub(f.BuiltAt)
	f.AgeSeconds = int64(f.Age / time.Second)
	f.Stale = !f.Until.IsZero() && !now.Before(f.Until)
}

// advisoryFacts returns what is known of the advisory data in use here, for whoever reaches the console: no path of this machine.
func (in *instance) advisoryFacts(context.Context) (any, error) {
	f := facts{Source: in.config.Advisories.Source}
	f.show(in.advisories.Snapshot(), time.Now().UTC())
	if in.updater == nil {
		return f, nil
	}
	path, err := in.config.advisoryPath()
	if err != nil {
		return nil, err
	}
	f.Status, err = advisories.NewFolder(path, checkDatabase, time.Now).Status()
	f.Attempts = in.updater.Attempts()
	return f, err
}

func printFacts(w io.Writer, f facts) error {
	var b strings.Builder
	writeLine(&b, "path      %s", f.Path)
	if f.Source != "" {
		writeLine(&b, "source    %s", f.Source)
	}
	switch {
	case f.Problem != "":
		writeLine(&b, "snapshot  none: %s", f.Problem)
	case f.Snapshot == "":
		writeLine(&b, "snapshot  none")
	default:
		writeLine(&b, "snapshot  %s", f.Snapshot)
		writeLine(&b, "built     %s, %s ago", moment(f.BuiltAt), f.Age.Round(time.Minute))
		switch {
		case f.Until.IsZero():
			writeLine(&b, "counts    at any age")
		case f.Stale:
			writeLine(&b, "counts    not any more since %s: it is a gap, stale-advisories", moment(f.Until))
		default:
			writeLine(&b, "counts    until %s", moment(f.Until))
		}
	}
	writeOrigin(&b, "in use", f.InUse)
	writeOrigin(&b, "before", f.Previous)
	if !f.SucceededAt.IsZero() {
		writeLine(&b, "fetched   %s", moment(f.SucceededAt))
	}
	if !f.FailedAt.IsZero() {
		writeLine(&b, "failed    %s: %s", moment(f.FailedAt), f.Failure)
	}
	if !f.NextAt.IsZero() {
		writeLine(&b, "next      %s", moment(f.NextAt))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeOrigin writes a line about a database, if there is one.
func writeOrigin(b *strings.Builder, word string, o *advisories.Origin) {
	if o == nil {
		return
	}
	verified := "not verified"
	if o.Verified != "" {
		verified = "verified by " + o.Verified
	}
	next := ""
	if !o.NextUpdate.IsZero() {
		next = ", the next is due " + moment(o.NextUpdate)
	}
	writeLine(b, "%-9s from %s %s, %s, built %s, here since %s%s", word, o.From, o.Digest, verified, moment(o.BuiltAt), moment(o.InstalledAt), next)
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }
