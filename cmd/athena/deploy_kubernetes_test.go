package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// A manifest is what the test reads of a Kubernetes object.
type manifest struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		// A Service's.
		Selector                 map[string]any
		SessionAffinity          string `yaml:"sessionAffinity"`
		ClusterIP                string `yaml:"clusterIP"`
		PublishNotReadyAddresses bool   `yaml:"publishNotReadyAddresses"`
		Ports                    []struct {
			Port       int
			TargetPort string `yaml:"targetPort"`
		}
		// A StatefulSet's.
		ServiceName          string `yaml:"serviceName"`
		Replicas             int
		PodManagementPolicy  string `yaml:"podManagementPolicy"`
		Template             struct{ Spec pod }
		VolumeClaimTemplates []manifest `yaml:"volumeClaimTemplates"`
		// A PodDisruptionBudget's.
		MaxUnavailable int `yaml:"maxUnavailable"`
	}
}

type pod struct {
	TerminationGracePeriodSeconds int `yaml:"terminationGracePeriodSeconds"`
	Containers                    []container
	Volumes                       []struct {
		Name   string
		Secret struct{ Items []struct{ Path string } }
	}
}

type container struct {
	Args  []string
	Ports []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	Env []struct {
		Name, Value string
		ValueFrom   struct {
			FieldRef struct {
				FieldPath string `yaml:"fieldPath"`
			} `yaml:"fieldRef"`
		} `yaml:"valueFrom"`
	}
	ReadinessProbe probe `yaml:"readinessProbe"`
	LivenessProbe  probe `yaml:"livenessProbe"`
	StartupProbe   probe `yaml:"startupProbe"`
	VolumeMounts   []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

// manifests returns the objects, by kind and name.
func manifests(t *testing.T) map[string]manifest {
	t.Helper()
	all := make(map[string]manifest)
	for d := yaml.NewDecoder(strings.NewReader(deployFile(t, "kubernetes.yaml"))); ; {
		var m manifest
		err := d.Decode(&m)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil || m.Kind == "" || m.Metadata.Name == "" {
			t.Fatalf("%+v: %v", m, err)
		}
		all[m.Kind+" "+m.Metadata.Name] = m
	}
}

func TestTheNodesOfKubernetesFindEachOther(t *testing.T) {
	all := manifests(t)
	set := all["StatefulSet athena"].Spec
	if set.PodManagementPolicy != "Parallel" || set.Replicas != fleetNodes {
		t.Errorf("%d pods are started as %q; want %d, Parallel, since a majority must be there before any is ready", set.Replicas, set.PodManagementPolicy, fleetNodes)
	}
	routes := all["Service "+set.ServiceName].Spec
	if routes.ClusterIP != "None" || !routes.PublishNotReadyAddresses {
		t.Errorf("the service for the nodes is %+v; it must be headless and have those that are not ready", routes)
	}
	clients := all["Service athena"].Spec
	if clients.ClusterIP != "" || clients.PublishNotReadyAddresses || clients.SessionAffinity != "None" {
		t.Errorf("the service for clients is %+v", clients)
	}
	if budget := all["PodDisruptionBudget athena"].Spec; budget.MaxUnavailable != 1 {
		t.Errorf("%d nodes may be taken away at once", budget.MaxUnavailable)
	}
	if _, ok := all["NetworkPolicy athena"]; !ok {
		t.Error("no policy says who may talk to nodes")
	}

	node := set.Template.Spec.Containers[0]
	port := make(map[string]string)
	for _, p := range node.Ports {
		port[p.Name] = fmt.Sprintf(":%d", p.ContainerPort)
	}
	if c, r := port[clients.Ports[0].TargetPort], port[routes.Ports[0].TargetPort]; c == "" || r == "" || r != fmt.Sprintf(":%d", routes.Ports[0].Port) {
		t.Errorf("clients are sent to port %q, nodes to %q", c, r)
	}
	if !slices.Equal(node.Args, []string{"serve"}) {
		t.Errorf("the program is called with %q", node.Args)
	}
	for path, p := range map[string]probe{"/readyz": node.ReadinessProbe, "/healthz": node.LivenessProbe} {
		if p.HTTPGet.Path != path || port[p.HTTPGet.Port] != port["http"] {
			t.Errorf("%s: %+v", path, p)
		}
	}
	if node.StartupProbe.HTTPGet != node.LivenessProbe.HTTPGet {
		t.Errorf("the start is looked for at %+v", node.StartupProbe)
	}

	// The settings of each pod, with the secrets at a place that is there.
	dir := t.TempDir()
	mounted := make(map[string]string)
	for _, m := range node.VolumeMounts {
		mounted[m.Name] = m.MountPath
	}
	for _, v := range set.Template.Spec.Volumes {
		for _, item := range v.Secret.Items {
			at := filepath.Join(dir, mounted[v.Name], item.Path)
			if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(at, []byte("web="+strings.Repeat("4e", 32)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	var advertised []string
	for i := range set.Replicas {
		name := fmt.Sprintf("athena-%d", i)
		var variables []string
		for _, v := range node.Env {
			if v.ValueFrom.FieldRef.FieldPath == "metadata.name" {
				v.Value = name
			}
			v.Value = strings.ReplaceAll(v.Value, "$(ATHENA_NODE)", name)
			if strings.HasSuffix(v.Name, "_FILE") {
				v.Value = filepath.Join(dir, v.Value)
			}
			variables = append(variables, v.Name+"="+v.Value)
		}
		cfg := settings(t, variables...)
		advertised = append(advertised, cfg.ClusterAdvertise)
		grace := time.Duration(set.Template.Spec.TerminationGracePeriodSeconds) * time.Second
		if cfg.Node != name || !cfg.Clustered() || cfg.Loopback() || !strings.HasSuffix(cfg.Listen, port["http"]) || !strings.HasSuffix(cfg.ClusterListen, port["cluster"]) {
			t.Errorf("%s is %s, and listens on %s and, for nodes, on %s", name, cfg.Node, cfg.Listen, cfg.ClusterListen)
		}
		if cfg.DataDir != mounted[set.VolumeClaimTemplates[0].Metadata.Name] {
			t.Errorf("data is kept in %s, which is not the volume", cfg.DataDir)
		}
		if grace <= cfg.DrainTimeout+closing || cfg.DrainDelay > cfg.DrainTimeout/5 {
			t.Errorf("a node is killed after %v, drains for up to %v, and takes clients for %v of it", grace, cfg.DrainTimeout, cfg.DrainDelay)
		}
		if i == set.Replicas-1 && !slices.Equal(advertised, cfg.ClusterRoutes) {
			t.Errorf("the nodes are at %v, and are looked for at %v", advertised, cfg.ClusterRoutes)
		}
	}
}
