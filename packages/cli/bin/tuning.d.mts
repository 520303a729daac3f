export declare const NODE_FLAGS: readonly string[];
export declare function tunedEnvironment(given: NodeJS.ProcessEnv): NodeJS.ProcessEnv;
