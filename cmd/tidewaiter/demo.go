package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// demoUpstream is the name clients of the demo call the upstream by.
const demoUpstream = "registry.demo"

// demoPolicy is what the demo judges by.
const demoPolicy = `policies:
  - name: observed
    match: {repositories: ["registry.demo/lab/**"]}
    mode: warn
    on_fail: quarantine
    require:
      signatures: {any_of: [release]}
    vulnerabilities: {deny_at: high, only_fixable: true}
  - name: production
    match: {repositories: ["registry.demo/**"]}
    mode: enforce
    on_fail: quarantine
    require:
      signatures: {any_of: [release]}
    vulnerabilities: {deny_at: high, only_fixable: true}
    secrets: deny
waivers:
  - vulnerability: CVE-2019-10744
    package: npm/lodash
    repositories: ["registry.demo/shop/legacy"]
    until: %s
    reason: "input never reaches defaultsDeep; DEMO-1"
    by: alice
`

const demoTrust = `authorities:
  - {name: release, cosign: {key_file: release.pub}}
`

const demoConfig = `listen: {registry: "127.0.0.1:0", admin: "127.0.0.1:0"}
storage: {filesystem: {root: %q}}
upstreams:
  - {host: registry.demo, url: %q, unsafe_private_addresses: true}
default_upstream: registry.demo
policy_files: [%q]
trust_files: [%q]
advisories: {path: %q}
log: {level: warn, format: text}
`

func newDemo(inv *invocation) *cobra.Command {
	keep := false
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the gate at work, on real bytes and without a network",
		Long: `Start an upstream registry in process, push images with real package databases to it, sign some, start the proxy in front of it, pull
each image over HTTP, and print what became of it. Everything is on loopback and in a temporary folder.

Exit codes: 0 when every verdict is the expected one, else 1.`,
		Example: "  tidewaiter demo --keep\n  tidewaiter demo -o json",
		Args:    exactly(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return inv.demo(cmd.Context(), keep) },
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave upstream and proxy running, and print commands to try")
	inv.withOutput(cmd)
	inv.withQuiet(cmd)
	return cmd
}

// demo sets the stage, pulls, and prints the table.
func (inv *invocation) demo(ctx context.Context, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "tidewaiter-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	inv.talk("starting an upstream and pushing images to it")
	registry, err := ocitest.StartRegistry(ocitest.Options{})
	if err != nil {
		return err
	}
	defer registry.Close()
	scenes, err := stage(registry, dir)
	if err != nil {
		return fmt.Errorf("preparing the images: %w", err)
	}
	configFile, err := writeDemoConfig(dir, registry.URL())
	if err != nil {
		return err
	}
	c, err := loadConfigFile(configFile) // the environment is about another installation, whose storage must not be written to
	if err != nil {
		return err
	}

	inv.talk("starting the proxy in front of it")
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	listening, ended := make(chan addresses, 1), make(chan error, 1)
	log := slog.New(slog.DiscardHandler)
	if keep {
		log = newLogger(inv.stderr, "info", "text")
	}
	go func() { ended <- serve(ctx, c, log, func(at addresses) { listening <- at }) }()
	var at addresses
	select {
	case at = <-listening:
	case err := <-ended:
		return err
	}
	unexpected, err := inv.play(ctx, scenes, at)
	if err == nil && keep {
		inv.talk("\nBoth are running. Try, and end with Ctrl-C:\n%s", demoCommands(at, configFile))
		<-ctx.Done()
	}
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		return err
	}
	if unexpected > 0 {
		return fmt.Errorf("%d of %d verdicts are not the expected ones", unexpected, len(scenes))
	}
	return nil
}

// played is what became of one image.
type played struct {
	Image   string `json:"image"`
	Verdict string `json:"verdict"` // allowed or denied
	// Expected says whether that, and what the client was told, is what should have become of it.
	Expected bool `json:"expected"`
	// Cold is how long the first pull took, Again the second.
	Cold  time.Duration `json:"cold_ns"`
	Again time.Duration `json:"again_ns"`
	// Pulled says in words how much arrived; Why is the reason the client was shown, or else what the image is.
	Pulled string `json:"pulled"`
	Why    string `json:"why"`
}

// play pulls every image twice and prints what became of it. It returns how many outcomes were not the expected ones.
func (inv *invocation) play(ctx context.Context, scenes []scene, at addresses) (unexpected int, err error) {
	var all []played
	for _, s := range scenes {
		cold, err := pull(ctx, at.registry, s.reference)
		if err != nil {
			return 0, fmt.Errorf("pulling %s: %w", s.reference, err)
		}
		again, err := pull(ctx, at.registry, s.reference)
		if err != nil {
			return 0, fmt.Errorf("pulling %s again: %w", s.reference, err)
		}
		p := played{
			Image: s.reference, Verdict: "denied", Expected: s.met(cold) && cold.allowed == again.allowed,
			Cold: cold.took, Again: again.took, Pulled: cold.pulled(), Why: cold.reason(s.what),
		}
		if cold.allowed {
			p.Verdict = "allowed"
		}
		if !p.Expected {
			unexpected++
		}
		all = append(all, p)
	}
	return unexpected, inv.print(all, func(w io.Writer) error { return printScenes(w, all) })
}

// printScenes writes the table.
func printScenes(w io.Writer, all []played) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	writeRow(table, "IMAGE", "VERDICT", "COLD", "AGAIN", "PULLED", "WHY")
	for _, p := range all {
		verdict := p.Verdict
		if !p.Expected {
			verdict += " (UNEXPECTED)"
		}
		writeRow(table, p.Image, verdict, rounded(p.Cold), rounded(p.Again), p.Pulled, p.Why)
	}
	return table.Flush()
}

// rounded returns a duration in as many figures as mean something.
func rounded(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// writeDemoConfig writes the files a real installation would have, and returns the configuration's name.
func writeDemoConfig(dir, upstreamURL string) (string, error) {
	in := func(name string) string { return filepath.Join(dir, name) }
	for name, content := range map[string]string{
		"policy.yaml":     fmt.Sprintf(demoPolicy, time.Now().UTC().Add(30*24*time.Hour).Format(time.RFC3339)),
		"trust.yaml":      demoTrust,
		"tidewaiter.yaml": fmt.Sprintf(demoConfig, in("data"), upstreamURL, in("policy.yaml"), in("trust.yaml"), in("advisories")),
	} {
		if err := os.WriteFile(in(name), []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	return in("tidewaiter.yaml"), nil
}

func demoCommands(at addresses, configFile string) string {
	var b strings.Builder
	for _, line := range []string{
		"skopeo copy --src-tls-verify=false docker://%[1]s/registry.demo/shop/web:1.0 dir:/tmp/web",
		"crane pull --insecure %[1]s/registry.demo/shop/unsigned:1.0 /tmp/unsigned.tar",
		"curl -i http://%[1]s/v2/registry.demo/shop/vulnerable/manifests/1.0",
		"tidewaiter verdict --server http://%[2]s registry.demo/shop/vulnerable:1.0",
		"tidewaiter inventory --config %[3]s registry.demo/shop/web:1.0",
	} {
		_, _ = fmt.Fprintf(&b, "  "+line+"\n", at.registry, at.admin, configFile) // a strings.Builder never fails
	}
	return b.String()
}
