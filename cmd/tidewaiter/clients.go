package main

import (
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/oci"
)

// clientFile is one file of a client's configuration.
type clientFile struct {
	Path    string `json:"path"`
	Content string `json:"content"`
}

// clientKind is a client there is a configuration for, and who writes it. A configuration sends every pull of the listed upstreams to
// the proxy and nowhere else, whatever the proxy answers.
type clientKind struct {
	name  string
	files func(proxy *url.URL, upstreams []string) []clientFile
}

// clientKinds are in the order people are shown them.
var clientKinds = []clientKind{
	{"containerd", containerdFiles},
	{"cri-o", containersFiles},
	{"podman", containersFiles},
	{"docker", dockerFiles},
	{"k3s", k3sFiles},
	{"talos", talosFiles},
}

func clientNames() []string {
	var names []string
	for _, k := range clientKinds {
		names = append(names, k.name)
	}
	return names
}

func newClients(inv *invocation) *cobra.Command {
	proxy := ""
	var upstreams []string
	cmd := &cobra.Command{
		Use:   "clients " + strings.Join(clientNames(), "|"),
		Short: "Print client configurations that cannot fall through to the origin",
		Long: `Print the files that make a client pull through the proxy and nowhere else. Most clients take a refusal by a mirror as a reason to ask the
origin; these configurations leave them no origin to ask. Only egress filtering makes sure of nodes nobody configured.

Docker's registry-mirrors always fall through, so for docker images are to be named by the proxy: PROXY/docker.io/library/nginx.`,
		Example:   "  tidewaiter clients containerd --proxy https://proxy.example:5000 --upstream docker.io --upstream ghcr.io",
		ValidArgs: clientNames(),
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs)(cmd, args); err != nil {
				return usageError(err)
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			base, err := url.Parse(proxy)
			if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" || strings.Trim(base.Path, "/") != "" {
				return usageError(fmt.Errorf("proxy %q is not an http or https URL without a path", proxy))
			}
			hosts, err := inv.clientUpstreams(upstreams)
			if err != nil {
				return err
			}
			kind := clientKinds[slices.Index(clientNames(), args[0])] // which Args has made sure of
			files := kind.files(&url.URL{Scheme: base.Scheme, Host: base.Host}, hosts)
			return inv.print(files, func(w io.Writer) error { return printClientFiles(w, files) })
		},
	}
	cmd.Flags().StringVar(&proxy, "proxy", "http://127.0.0.1:5000", "where clients reach the proxy")
	cmd.Flags().StringArrayVar(&upstreams, "upstream", nil, "upstream host to pull through the proxy, repeatable (default those configured)")
	inv.withConfig(cmd)
	inv.withOutput(cmd)
	return cmd
}

// clientUpstreams returns the upstreams asked for, or all that are configured.
func (inv *invocation) clientUpstreams(asked []string) ([]string, error) {
	for _, host := range asked {
		if !oci.ValidHost(host) {
			return nil, usageError(fmt.Errorf("upstream %q is not a host", host))
		}
	}
	if len(asked) > 0 {
		return asked, nil
	}
	c, err := loadConfig(inv.configFile)
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, u := range c.upstreams() {
		hosts = append(hosts, u.Host)
	}
	slices.Sort(hosts)
	return hosts, nil
}

func printClientFiles(w io.Writer, files []clientFile) error {
	var b strings.Builder
	for _, f := range files {
		fmt.Fprintf(&b, "# ---- %s\n%s\n", f.Path, f.Content)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// containerdFiles closes containerd by naming the proxy twice: as the server, which is where it goes when every host has failed, and
// as a host, without which containerd 1.6 refuses the file and goes to the origin.
func containerdFiles(proxy *url.URL, upstreams []string) []clientFile {
	var files []clientFile
	for _, host := range upstreams {
		files = append(files, clientFile{
			Path:    "/etc/containerd/certs.d/" + host + "/hosts.toml",
			Content: fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", proxy, proxy),
		})
	}
	return files
}

// containersFiles closes the clients of containers/image by rewriting the location: they know no other. A registry.mirror would fall
// through.
func containersFiles(proxy *url.URL, upstreams []string) []clientFile {
	var b strings.Builder
	for _, host := range upstreams {
		fmt.Fprintf(&b, "[[registry]]\nprefix = %q\nlocation = %q\ninsecure = %t\n\n", host, proxy.Host+"/"+oci.EscapePort(host), proxy.Scheme == "http")
	}
	return []clientFile{{Path: "/etc/containers/registries.conf.d/tidewaiter.conf", Content: b.String()}}
}

// dockerFiles lets docker speak to a proxy without TLS. Which registry it pulls from is up to the reference alone.
func dockerFiles(proxy *url.URL, _ []string) []clientFile {
	content := "{}\n"
	if proxy.Scheme == "http" {
		content = fmt.Sprintf("{\"insecure-registries\": [%q]}\n", proxy.Host)
	}
	return []clientFile{{Path: "/etc/docker/daemon.json", Content: content}}
}

// k3sConfig says what has been seen of it: k3s writes a host and no server for its containerd, and plain containerd then falls back on
// the origin for a pull by digest.
const k3sConfig = "# Without it k3s asks the origins too. Pulls by digest may do so all the same: keep nodes from the origins by network as well.\n" +
	"disable-default-registry-endpoint: true\n"

// k3sFiles needs the second file: without it k3s adds the origin behind every mirror.
func k3sFiles(proxy *url.URL, upstreams []string) []clientFile {
	var b strings.Builder
	b.WriteString("mirrors:\n")
	for _, host := range upstreams {
		fmt.Fprintf(&b, "  %q:\n    endpoint: [%q]\n", host, proxy)
	}
	return []clientFile{
		{Path: "/etc/rancher/k3s/registries.yaml", Content: b.String()},
		{Path: "/etc/rancher/k3s/config.yaml", Content: k3sConfig},
	}
}

// talosFiles is a patch of the machine configuration. skipFallback is what closes it.
func talosFiles(proxy *url.URL, upstreams []string) []clientFile {
	var b strings.Builder
	b.WriteString("machine:\n  registries:\n    mirrors:\n")
	for _, host := range upstreams {
		fmt.Fprintf(&b, "      %q:\n        endpoints: [%q]\n        skipFallback: true\n", host, proxy)
	}
	return []clientFile{{Path: "tidewaiter-patch.yaml", Content: b.String()}}
}
